#!/usr/bin/env bash
# Everything that must pass before a change lands: formatting, vet, staticcheck, shellcheck and the tests
# under the race detector. Installs what they need where it may. What it is given goes to go test:
# ./scripts/test.sh -run Refund -count=3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_go
need postgres=postgresql tinyproxy=tinyproxy microsocks=microsocks pgbouncer=pgbouncer \
	shellcheck=shellcheck gcc=build-essential git=git curl=curl cron=cron systemd-analyze=systemd script=bsdutils

lint
step go test -race
go test -race "$@" ./...
echo "all passed"
