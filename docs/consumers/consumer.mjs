// Prints each simulation once. Needs `npm ci`, in this directory.
//
// Reads RABBITMQ_HOST, _PORT, _USER, _PASSWORD, _VHOST, _QUEUE, _TLS and _CA_FILE as the pipeline
// does. Ends on SIGTERM or Ctrl-C.

import { readFileSync } from "node:fs";
import amqp from "amqplib";

const env = process.env;
const queue = env.RABBITMQ_QUEUE ?? "simulation_results";
const tls = ["true", "1", "yes", "on"].includes((env.RABBITMQ_TLS ?? "false").toLowerCase());
// How many message ids to remember. A message that comes again does so soon after it came first.
const seenIds = Number(env.SEEN_IDS ?? 100000);

const seen = new Set(); // in the order in which they came

// Deal with a simulation. Yours goes here.
function handle(body) {
  for (const { llm_name, metric, timestamp, values } of JSON.parse(body)) {
    console.log(llm_name, metric, timestamp, JSON.stringify(values));
  }
}

// Called for each connection anew.
async function consume(connection) {
  connection.on("error", () => {}); // what it is comes with "disconnect" or "connect-failed"
  const channel = await connection.createChannel();
  channel.on("error", () => {});
  channel.on("close", () => connection.close().catch(() => {})); // with it, all begins anew
  channel.on("handler-error", (error) => {
    throw error; // what handle() threw ends the program: the message stays in the queue
  });
  await channel.prefetch(100);
  await channel.consume(queue, (message) => {
    if (message === null) return channel.close(); // the queue is gone
    const id = message.properties.messageId;
    if (!seen.has(id)) {
      handle(message.content);
      seen.add(id);
      if (seen.size > seenIds) seen.delete(seen.values().next().value);
    }
    // After it is dealt with: if this fails, the message comes again, and is known.
    channel.ack(message);
  });
}

const connection = await amqp.connect(
  {
    protocol: tls ? "amqps" : "amqp",
    hostname: env.RABBITMQ_HOST ?? "127.0.0.1",
    port: Number(env.RABBITMQ_PORT ?? 15673),
    username: env.RABBITMQ_USER ?? "sim_pipeline",
    password: env.RABBITMQ_PASSWORD ?? "",
    vhost: encodeURIComponent(env.RABBITMQ_VHOST ?? "/"),
    heartbeat: 20,
  },
  {
    timeout: 5000,
    ca: tls && env.RABBITMQ_CA_FILE ? readFileSync(env.RABBITMQ_CA_FILE) : undefined,
    recovery: { setup: consume, waitForConnect: false, initialDelay: 500, maxDelay: 30000 },
  },
);
connection.on("error", () => {});
// Also for a queue that is not there yet, or a log-in that fails: both may be mended.
connection.on("reconnect-scheduled", ({ delay, error }) =>
  console.error(`${error}; next attempt in ${delay / 1000} s`),
);
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => connection.close());
}
