"""How psycopg passes None, arrays and objects."""
import os

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb


def _call(sql, args):
    with psycopg.connect(os.environ["DATABASE_URL"], row_factory=dict_row) as db:
        return db.execute(sql, args).fetchone()


def _jsonb(value):
    return None if value is None else Jsonb(value)


def enqueue(args):
    """All parameters of the function, by name."""
    args = {**args, "options": _jsonb(args["options"]), "inputs": _jsonb(args["inputs"])}
    return _call(
        """select * from imagetasks.enqueue(user_id => %(user_id)s, prompt => %(prompt)s, options => %(options)s, cost => %(cost)s,
           idempotency_key => %(idempotency_key)s, priority => %(priority)s, run_at => %(run_at)s, inputs => %(inputs)s)""", args)


def enqueue_many(args):
    args = {**args, "tasks": _jsonb(args["tasks"])}
    return _call("""select * from imagetasks.enqueue_many(user_id => %(user_id)s, tasks => %(tasks)s,
                    idempotency_key => %(idempotency_key)s)""", args)


def balance(user_id):
    return _call("select imagetasks.balance(user_id => %s) as balance", [user_id])["balance"]
