#!/usr/bin/env bash
# Brings the background processor up, and returns when it is healthy. Safe to repeat.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_built
exec bin/task-processor start "$@"
