// Prints each simulation once. Needs `npm ci` in this directory.
//
// Reads the same variables as the pipeline: RABBITMQ_HOST, _PORT, _USER, _PASSWORD, _VHOST, _QUEUE,
// _TLS and _CA_FILE. Ends on SIGTERM or Ctrl-C. A message that handle() fails on is moved to the
// dead-letter queue; see README.md in this directory.

import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import amqp from "amqplib";

const env = process.env;
const queue = env.RABBITMQ_QUEUE ?? "simulation_results";
const deadLetters = `${queue}.dead-letter`;
// Attempts per message before it is moved to the dead-letter queue, and the pause between them.
const attempts = 3;
const pauseMilliseconds = 1000;
// Messages received ahead of their acknowledgement. A crash counts as a delivery of each of them.
const prefetch = 10;
// Deliveries of a dead letter: in effect no limit. RabbitMQ 4 would drop it at the 21st, and only
// RabbitMQ 4 can be told to have no limit.
const deliveryLimit = 1_000_000_000;
const tls = ["true", "1", "yes", "on"].includes((env.RABBITMQ_TLS ?? "false").toLowerCase());
// Number of message ids to remember. A duplicate follows soon after the first copy.
const seenIds = Number(env.SEEN_IDS ?? 100000);

const print = promisify(process.stdout.write.bind(process.stdout));
const seen = new Set(); // ids, oldest first
let work = Promise.resolve(); // processes one message after another
let ending = false;
let cancel = async () => {}; // stops the deliveries of the current connection

// Process one simulation. Replace this with your code.
//
// Throw an error if the message cannot be processed. If a service is temporarily down, such as your
// database, wait for it here. A system error, such as a full disk, ends the program.
async function handle(body) {
  const lines = JSON.parse(body).map(
    ({ llm_name, metric, timestamp, values }) =>
      `${llm_name} ${metric} ${timestamp} ${JSON.stringify(values)}`,
  );
  await print(`${lines.join("\n")}\n`); // console.log() does not report failures
}

// Handle a message or move it to the dead letters; then acknowledge it.
async function processMessage(channel, message) {
  const { messageId } = message.properties;
  let done = seen.has(messageId);
  for (let attempt = 1; !done && !ending && channel.isOpen; attempt++) {
    try {
      await handle(message.content);
      remember(messageId);
      done = true;
    } catch (error) {
      if (error?.syscall) throw error; // not caused by the message, which stays in the queue
      console.error(`${messageId}, attempt ${attempt}: ${error}`);
      if (attempt < attempts) {
        await pause(pauseMilliseconds);
      } else {
        await publishDeadLetter(channel, message, error);
        done = true;
      }
    }
  }
  // After processing. If this fails, the message arrives again and its id is known.
  if (done && channel.isOpen) channel.ack(message);
}

function remember(messageId) {
  if (messageId === undefined) return;
  seen.add(messageId);
  if (seen.size > seenIds) seen.delete(seen.values().next().value);
}

// Publish a copy of a message to the dead-letter queue and wait for the broker's confirm.
async function publishDeadLetter(channel, message, error) {
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

// Declare the dead-letter queue if it does not exist.
async function ensureDeadLetterQueue(connection) {
  const open = async () => {
    const channel = await connection.createChannel();
    channel.on("error", () => {}); // the failed call reports it
    return channel;
  };
  try {
    await (await open()).checkQueue(deadLetters);
  } catch (error) {
    if (error.code !== 404) throw error; // not found
    const quorum = { "x-queue-type": "quorum", "x-delivery-limit": deliveryLimit };
    await (await open()).assertQueue(deadLetters, { durable: true, arguments: quorum });
  }
}

// Set up each new connection.
async function consume(connection) {
  connection.on("error", () => {}); // "reconnect-scheduled" reports it
  await ensureDeadLetterQueue(connection);
  const channel = await connection.createConfirmChannel();
  channel.isOpen = true;
  const end = () => {
    channel.isOpen = false;
    connection.close().catch(() => {}); // then amqplib reconnects
  };
  channel.on("error", () => {});
  channel.on("close", end);
  channel.on("return", end); // the dead-letter queue was deleted
  await channel.prefetch(prefetch);
  const { consumerTag } = await channel.consume(queue, (message) => {
    if (message === null) return end(); // the queue was deleted
    work = work
      .then(() => processMessage(channel, message))
      .catch((error) => {
        if (error?.syscall) throw error; // ends the program
        if (channel.isOpen) console.error(`dead letter not published: ${error}`);
        end();
      });
  });
  cancel = async () => channel.cancel(consumerTag);
}

const connection = await amqp.connect(
  {
    protocol: tls ? "amqps" : "amqp",
    // An IPv6 address may be in brackets, as in a URL.
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
// Also retries a missing queue and a failed login, because both can be fixed meanwhile.
connection.on("reconnect-scheduled", ({ delay, error }) =>
  console.error(`${error}; next attempt in ${delay / 1000} s`),
);
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    ending = true;
    await work; // finish the current message
    await cancel().catch(() => {}); // the reply follows the acknowledgement of that message
    await connection.close();
  });
}
