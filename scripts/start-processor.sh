#!/usr/bin/env bash
# Starts the background processor, and returns when it is healthy. Safe to repeat. All options are passed to
# task-processor start.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_built
exec bin/task-processor start "$@"
