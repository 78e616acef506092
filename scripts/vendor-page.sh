#!/usr/bin/env bash
# Copies the chart library of the status page (uPlot) from npm to pkg/status/page/vendor, and records the version and the
# SHA-256 of each file in pkg/status/page/vendor/SHA256SUMS, which a test compares. The programs embed these files, so neither
# a build nor a page load needs npm or a network. Run it to change the version: ./scripts/vendor-page.sh [VERSION]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

version=${1:-1.6.32}
to=$PWD/pkg/status/page/vendor
need node=nodejs npm=npm
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
# npm checks the package against the hash that the registry states for it.
npm install --silent --ignore-scripts --no-audit --no-fund --no-update-notifier "uplot@$version"
from=node_modules/uplot
found=$(node -p "require('./$from/package.json').version")
[[ $found == "$version" ]] || die "npm installed uplot $found instead of $version"
mkdir -p "$to"
cp "$from/dist/uPlot.iife.min.js" "$from/dist/uPlot.min.css" "$to/"
cp "$from/LICENSE" "$to/LICENSE"
cd "$to"
{
	echo "# uplot $version"
	node -e '
		const {createHash} = require("crypto"), {readFileSync} = require("fs");
		for (const name of process.argv.slice(1))
			console.log(createHash("sha256").update(readFileSync(name)).digest("hex") + "  " + name);
	' LICENSE uPlot.iife.min.js uPlot.min.css
} >SHA256SUMS
cat SHA256SUMS
