// The process of the contender graphile-worker. It is copied to the directory in which the package is installed.
//   node worker.mjs migrate URL    creates its schema
//   node worker.mjs work URL       prints "ready", waits for a line on standard input, works until standard input ends, and prints how many jobs
//                                  it has worked
import readline from 'node:readline'
import { Logger, run, runMigrations } from 'graphile-worker'

const [, , command, connectionString] = process.argv
const logger = new Logger(() => () => {})

// The settings of "Performance" in its documentation.
const preset = {
  worker: {
    connectionString,
    concurrentJobs: 24,
    maxPoolSize: 25,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
}

if (command === 'migrate') {
  await runMigrations({ connectionString, logger })
  process.exit(0)
}

let worked = 0
let reported = 0
console.log('ready')
const lines = readline.createInterface({ input: process.stdin })
await new Promise((resolve) => lines.once('line', resolve))
const ended = new Promise((resolve) => lines.once('close', resolve))
const runner = await run({ preset, logger, noHandleSignals: true, taskList: { picture: async () => { worked++ } } })
const report = setInterval(() => {
  if (worked !== reported) {
    reported = worked
    console.log(worked)
  }
}, 5)
await ended
clearInterval(report)
await runner.stop()
process.exit(0)
