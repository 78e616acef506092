#!/usr/bin/env bash
# Sets this host up: builds, writes .env where there is none, migrates, and puts the entries of deploy/crontab into
# this user's crontab. Safe to repeat.
#   --print       shows the entries and changes nothing
#   --uninstall   takes out of the crontab what this script put in
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
export LC_ALL=C

project=$(pwd -P)
begin="# BEGIN imagetasks $project"
end="# END imagetasks $project"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
was=$scratch/was now=$scratch/now

# entries: deploy/crontab for this directory, quoted for sh; cron takes a bare % for a newline.
entries() {
	local quoted="'${project//\'/\'\\\'\'}'"
	project=$project directory=${quoted//%/\\%} awk '
		function put(text, mark, value,   at) {
			if ((at = index(text, mark)) == 0) return text
			return substr(text, 1, at - 1) value substr(text, at + length(mark))
		}
		{ print put(put($0, "@PROJECT@", ENVIRON["project"]), "@DIRECTORY@", ENVIRON["directory"]) }' deploy/crontab
}

# current FILE: the crontab as it is; empty where there is none.
current() {
	local said
	if ! said=$(crontab -l 2>&1 >"$1"); then
		[[ $said == *"no crontab for"* ]] || die "crontab -l: $said"
	fi
}

# without FILE: the crontab in FILE without our entries, every other line as it is.
without() {
	begin=$begin end=$end awk '
		$0 == ENVIRON["begin"] { inside = 1; held = ""; }
		inside { held = held $0 "\n"; if ($0 == ENVIRON["end"]) inside = 0; next }
		{ print }
		END { if (inside) exit 1 }' "$1" ||
		die "the crontab has \"$begin\" without its end; mend it with crontab -e, then run this again"
}

need_cron() {
	command -v crontab >/dev/null ||
		die "cron is not installed; on Debian or Ubuntu: sudo apt-get install -y cron; or use the units in deploy/systemd"
}

install_entries() {
	current "$was"
	without "$was" >"$now"
	entries >>"$now"
	if cmp -s "$was" "$now"; then
		echo "crontab       the entries are there already"
	else
		crontab "$now"
		echo "crontab       entries put in"
	fi
}

uninstall_entries() {
	current "$was"
	without "$was" >"$now"
	if cmp -s "$was" "$now"; then
		echo "crontab       there was nothing of ours"
	elif [[ -s $now ]]; then
		crontab "$now"
		echo "crontab       entries taken out"
	else
		crontab -r
		echo "crontab       entries taken out; nothing was left"
	fi
}

# bare CMD...: as cron runs it, to see that .env has all that is needed.
bare() {
	env -i HOME="${HOME:-/}" LOGNAME="$(id -un)" SHELL=/bin/sh PATH=/usr/bin:/bin "$@"
}

[[ $project != *$'\n'* ]] || die "the project's path has a line break in it; move it"
case ${1-} in
--print)
	entries
	exit
	;;
--uninstall)
	need_cron
	uninstall_entries
	echo "The processor was left as it is; ./scripts/stop-processor.sh stops it."
	exit
	;;
'') ;;
*)
	sed -n '2,5s/^# \{0,1\}//p' "scripts/$(basename "$0")"
	[[ $1 == --help ]] || exit 2
	exit
	;;
esac

need_go
build bin
echo "programs      built into bin/"

if [[ ! -e .env ]]; then
	(umask 077 && cp .env.example .env)
	chmod 600 .env
	die ".env was written from .env.example; fill in DATABASE_URL, OPENAI_API_KEY and OPENAI_PROXY, then run this again"
fi
chmod 600 .env
echo "settings      .env, for this user's eyes only"
grep -q '^ *\(export \)\{0,1\}IMAGE_STORE=' .env || mkdir -p images

bare bin/task-processor migrate | sed 's/^/database      /'

need_cron
install_entries
cat <<TEXT
Done. The monitor looks after everything every five minutes. Now:
  bin/simple-test                  is the API in reach?
  ./scripts/start-processor.sh     start the processor
  ./scripts/check-status.sh        see how everything stands
TEXT
