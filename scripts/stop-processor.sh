#!/usr/bin/env bash
# Stops the background processor when its paid requests have finished; --now cuts them. The monitor will not start it
# again. Safe to repeat. All options are passed to task-processor stop.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_built
exec bin/task-processor stop "$@"
