// How supabase-js passes null, arrays and objects; and calls with other keys and schemas.
import { createClient } from '@supabase/supabase-js'

function client(key, schema) {
  return createClient(process.env.NEXT_PUBLIC_SUPABASE_URL, key ?? process.env.SUPABASE_SERVICE_ROLE_KEY, {
    auth: { persistSession: false, autoRefreshToken: false },
  }).schema(schema ?? 'imagetasks')
}

async function reply(request) {
  const { data, error, status } = await request
  return { data, status, code: error?.code ?? '', message: error?.message ?? '' }
}

export const rpc = (name, args, key, schema) => reply(client(key, schema).rpc(name, args))
export const read = (table, key, schema) => reply(client(key, schema).from(table).select('*'))

async function result(name, args) {
  const { data, error } = await client().rpc(name, args)
  if (error) throw error
  return data
}

export const enqueue = (args) => result('enqueue', args)
export const enqueueMany = (args) => result('enqueue_many', args)
export const balance = (userId) => result('balance', { user_id: userId })
