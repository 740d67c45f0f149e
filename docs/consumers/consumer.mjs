// Prints each simulation once. Needs `npm ci`, in this directory.
//
// Reads RABBITMQ_HOST, _PORT, _USER, _PASSWORD, _VHOST, _QUEUE, _TLS and _CA_FILE as the pipeline
// does. Ends on SIGTERM or Ctrl-C. A message that handle() fails on is put in the dead-letter queue:
// see README.md beside this file.

import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import amqp from "amqplib";

const env = process.env;
const queue = env.RABBITMQ_QUEUE ?? "simulation_results";
const deadLetters = `${queue}.dead-letter`;
// How often to try a message before it is put aside, and the pause between two tries.
const attempts = 3;
const pauseMilliseconds = 1000;
// Messages under way. With each crash all of them count as delivered once more, see README.md.
const prefetch = 10;
const tls = ["true", "1", "yes", "on"].includes((env.RABBITMQ_TLS ?? "false").toLowerCase());
// How many message ids to remember. A message that comes again does so soon after it came first.
const seenIds = Number(env.SEEN_IDS ?? 100000);

const print = promisify(process.stdout.write.bind(process.stdout));
const seen = new Set(); // in the order in which they came
let work = Promise.resolve(); // one message after the other
let ending = false;

// Deal with a simulation. Yours goes here.
//
// An exception says that this message cannot be dealt with. Wait here for what is only away for a
// while, such as a database of yours. An error of the system, as of a full disk, ends the program.
async function handle(body) {
  const lines = JSON.parse(body).map(
    ({ llm_name, metric, timestamp, values }) =>
      `${llm_name} ${metric} ${timestamp} ${JSON.stringify(values)}`,
  );
  await print(`${lines.join("\n")}\n`); // console.log() would not say that it failed
}

// Handle a message, or put it aside after some attempts; then acknowledge it.
async function dealWith(channel, message) {
  const { messageId } = message.properties;
  let done = seen.has(messageId);
  for (let attempt = 1; !done && !ending && channel.isOpen; attempt++) {
    try {
      await handle(message.content);
      remember(messageId);
      done = true;
    } catch (error) {
      if (error?.syscall) throw error; // the message is not to blame: it stays in the queue
      console.error(`${messageId}, attempt ${attempt}: ${error}`);
      if (attempt < attempts) {
        await pause(pauseMilliseconds);
      } else {
        await putAside(channel, message, error);
        done = true;
      }
    }
  }
  // After it is dealt with. Where the connection is lost the message comes again, and is known.
  if (done && channel.isOpen) channel.ack(message);
}

function remember(messageId) {
  if (messageId === undefined) return;
  seen.add(messageId);
  if (seen.size > seenIds) seen.delete(seen.values().next().value);
}

// Put a message in the dead-letter queue, as it came. Returns once the broker has it safe.
async function putAside(channel, message, error) {
  const { contentType, messageId, type, appId } = message.properties;
  channel.publish("", deadLetters, message.content, {
    contentType,
    messageId,
    type,
    appId,
    persistent: true,
    mandatory: true,
    headers: { error: String(error).slice(0, 1000) },
  });
  await channel.waitForConfirms();
}

// Declare the dead-letter queue, unless it is there: then it is used as it is.
async function ensureDeadLetterQueue(connection) {
  const open = async () => {
    const channel = await connection.createChannel();
    channel.on("error", () => {}); // what it is comes with the call that fails
    return channel;
  };
  try {
    await (await open()).checkQueue(deadLetters);
  } catch (error) {
    if (error.code !== 404) throw error; // not found
    const quorum = { durable: true, arguments: { "x-queue-type": "quorum" } };
    await (await open()).assertQueue(deadLetters, quorum);
  }
}

// Called for each connection anew.
async function consume(connection) {
  connection.on("error", () => {}); // what it is comes with "disconnect" or "connect-failed"
  await ensureDeadLetterQueue(connection);
  const channel = await connection.createConfirmChannel();
  channel.isOpen = true;
  const end = () => {
    channel.isOpen = false;
    connection.close().catch(() => {}); // with it, all begins anew
  };
  channel.on("error", () => {});
  channel.on("close", end);
  channel.on("return", end); // the dead-letter queue is gone, with what was to be put there
  await channel.prefetch(prefetch);
  await channel.consume(queue, (message) => {
    if (message === null) return end(); // the queue is gone
    work = work
      .then(() => dealWith(channel, message))
      .catch((error) => {
        if (error?.syscall) throw error; // ends the program
        if (channel.isOpen) console.error(`not put aside: ${error}`);
        end();
      });
  });
}

const connection = await amqp.connect(
  {
    protocol: tls ? "amqps" : "amqp",
    // An IPv6 address may have the brackets that it has in a URL.
    hostname: (env.RABBITMQ_HOST ?? "127.0.0.1").replace(/^\[|\]$/g, ""),
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
  process.once(signal, async () => {
    ending = true;
    await work; // let the message at hand be dealt with
    await connection.close();
  });
}
