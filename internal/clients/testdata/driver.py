"""The same as driver.mjs, in Python: python3 driver.py MODULE."""
import base64
import importlib.util
import json
import sys

spec = importlib.util.spec_from_file_location("module", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for line in sys.stdin:
    request = json.loads(line)
    try:
        args = [base64.b64decode(a["base64"]) if isinstance(a, dict) and "base64" in a else a for a in request["args"]]
        reply = {"result": getattr(module, request["call"])(*args)}
    except Exception as err:
        reply = {"error": {"code": str(getattr(err, "sqlstate", "") or ""), "message": str(err)}}
    print(json.dumps(reply), flush=True)
