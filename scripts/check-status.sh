#!/usr/bin/env bash
# Shows on one screen how everything stands, and the next thing to do where something is wrong (then the exit code is 3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_built
exec bin/task-processor status "$@"
