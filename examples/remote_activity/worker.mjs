// Activities in Node for workflows in Python: this worker knows NATS, and nothing of jetflow but the JSON of a task.
//
//   npm install && node worker.mjs [task queue]
//
// JETFLOW_URL is the server's address, JETFLOW_NAMESPACE the namespace. ../../docs/remote-activities.md has the wire format.

import { createHash } from "node:crypto";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const queue = process.argv[2] ?? "node";
const namespace = process.env.JETFLOW_NAMESPACE ?? "jetflow";
const stream = `${namespace.toUpperCase()}_TASKS`;
const LEASE = Number(process.env.LEASE_MS ?? 30_000); // ms after which a silent worker's task goes to another worker

const activities = {
  fingerprint: (text) => ({ sha256: createHash("sha256").update(text).digest("hex"), by: `node ${process.versions.node}` }),
  // fails twice: jetflow decides when it comes again, by the retry policy of the workflow's activity
  flaky: (_text, { attempt }) => {
    if (attempt < 3) throw new RangeError(`attempt ${attempt} fails`);
    return attempt;
  },
  refuse: (text) => {
    throw Object.assign(new TypeError(`never: ${text}`), { nonRetryable: true });
  },
  slow: async (ms) => {
    await new Promise((done) => setTimeout(done, ms));
    return ms;
  },
};

const nc = await connect({ servers: process.env.JETFLOW_URL ?? "nats://127.0.0.1:4222" });
const js = jetstream(nc);
const manager = await jetstreamManager(nc);

async function run(message) {
  const task = message.json();
  const outcome = { run: task.run, attempt: task.attempt }; // says which attempt it is the outcome of
  const lease = setInterval(() => message.working(), LEASE / 3);
  try {
    outcome.result = (await activities[task.activity](...task.args, task)) ?? null;
  } catch (error) {
    outcome.failure = { type: error.name, message: error.message, stack: error.stack, non_retryable: error.nonRetryable ?? false };
  } finally {
    clearInterval(lease);
  }
  await js.publish(task.reply, JSON.stringify(outcome)); // stored before the task is acked: a crash here repeats the attempt
  message.ack();
}

const pulls = [];
for (const name of Object.keys(activities)) {
  const durable_name = `task-${queue.replaceAll("-", "=2D")}-${name}`; // shared by all workers of this activity
  await manager.consumers.add(stream, {
    durable_name,
    filter_subject: `${namespace}_task.${queue}.${name}.>`,
    ack_policy: AckPolicy.Explicit,
    ack_wait: LEASE * 1_000_000,
    max_deliver: -1,
    max_ack_pending: -1,
    max_waiting: 2048,
  });
  const consumer = await js.consumers.get(stream, durable_name);
  pulls.push(await consumer.consume({ max_messages: 10, callback: (message) => run(message).catch(console.error) }));
}
console.log(`serving ${Object.keys(activities).join(", ")} on task queue ${queue}`);

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, async () => {
    await Promise.all(pulls.map((pull) => pull.close()));
    await nc.drain();
  });
}
