#!/usr/bin/env bash
# Stops the background processor: gracefully, then firmly. The monitor will not start it again. Safe to repeat.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_built
exec bin/task-processor stop "$@"
