// Calls the functions of a module: node driver.mjs MODULE. Each line of standard input is {"call": NAME, "args": […]}, where
// {"base64": …} stands for a Buffer, and each gets one line of output: {"result": …} or {"error": {"code", "message"}}.
import { createInterface } from 'node:readline'

const functions = await import(process.argv[2])
for await (const line of createInterface({ input: process.stdin })) {
  const { call, args } = JSON.parse(line)
  let reply
  try {
    const values = args.map((a) => (typeof a?.base64 === 'string' ? Buffer.from(a.base64, 'base64') : a))
    reply = { result: (await functions[call](...values)) ?? null }
  } catch (err) {
    reply = { error: { code: String(err.code ?? ''), message: String(err.message) } }
  }
  process.stdout.write(JSON.stringify(reply) + '\n')
}
process.exit()
