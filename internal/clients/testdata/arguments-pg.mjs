// How node-postgres passes null, arrays and objects. An array must be given as JSON: [] would become {}, which is an object.
import pg from 'pg'

const db = new pg.Pool({ connectionString: process.env.DATABASE_URL })

// enqueue passes all parameters of the function, by name.
export async function enqueue(args) {
  const { rows } = await db.query(
    `select * from imagetasks.enqueue(user_id => $1, prompt => $2, options => $3, cost => $4, idempotency_key => $5, priority => $6,
       run_at => $7, inputs => $8)`,
    [args.user_id, args.prompt, Array.isArray(args.options) ? JSON.stringify(args.options) : args.options, args.cost, args.idempotency_key, args.priority, args.run_at && new Date(args.run_at),
      args.inputs && JSON.stringify(args.inputs)])
  return rows[0]
}

export async function enqueueMany(args) {
  const { rows } = await db.query('select * from imagetasks.enqueue_many(user_id => $1, tasks => $2, idempotency_key => $3)',
    [args.user_id, JSON.stringify(args.tasks), args.idempotency_key])
  return rows[0]
}

export async function balance(userId) {
  const { rows } = await db.query('select imagetasks.balance(user_id => $1) as balance', [userId])
  return rows[0].balance
}
