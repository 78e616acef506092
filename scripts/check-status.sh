#!/usr/bin/env bash
# Prints the state of the whole installation on one screen. If something is wrong, it also prints the next thing to do,
# and the exit code is 3. All options are passed to task-processor status.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_built
exec bin/task-processor status "$@"
