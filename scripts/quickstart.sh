#!/usr/bin/env bash
# Shows the whole system on this machine: installs PostgreSQL where it may, builds the four programs into
# bin/, and runs the demo. What it is given goes to the demo: ./scripts/quickstart.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_go
need postgres=postgresql
echo "Building …"
build bin
exec bin/task-processor demo "$@"
