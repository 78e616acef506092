#!/usr/bin/env bash
# Sets up this host: builds the programs, creates .env if it is missing, migrates the database, and adds the entries
# of deploy/crontab to this user's crontab. Safe to repeat.
#   --print       prints the entries and changes nothing
#   --uninstall   removes from the crontab what this script added
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
old=$scratch/old new=$scratch/new

# entries TIME: deploy/crontab for this directory, quoted for sh, with TIME as the time of installation. In a crontab a
# bare % means a newline.
entries() {
	local quoted="'${project//\'/\'\\\'\'}'"
	project=$project directory=${quoted//%/\\%} installed=$1 awk '
		function put(text, mark, value,   at) {
			if ((at = index(text, mark)) == 0) return text
			return substr(text, 1, at - 1) value substr(text, at + length(mark))
		}
		{ print put(put(put($0, "@PROJECT@", ENVIRON["project"]), "@DIRECTORY@", ENVIRON["directory"]), "@INSTALLED@", ENVIRON["installed"]) }' deploy/crontab
}

# current FILE: writes the crontab to FILE; empty if the user has none.
current() {
	local message
	if ! message=$(crontab -l 2>&1 >"$1"); then
		# BusyBox has its own message.
		[[ $message == *"no crontab for"* || $message == "crontab: can't open "*"No such file"* ]] || die "crontab -l: $message"
		: >"$1"
	fi
}

# block FILE: our entries in the crontab in FILE, markers included.
block() {
	begin=$begin end=$end awk '
		$0 == ENVIRON["begin"] { inside = 1 }
		inside { print; if ($0 == ENVIRON["end"]) inside = 0 }' "$1"
}

# without FILE: the crontab in FILE without our entries; every other line is unchanged.
without() {
	begin=$begin end=$end awk '
		$0 == ENVIRON["begin"] { inside = 1 }
		inside { if ($0 == ENVIRON["end"]) inside = 0; next }
		{ print }
		END { if (inside) exit 1 }' "$1" ||
		die "the crontab has \"$begin\" without its end; fix it with crontab -e, then run this again"
}

# wanted FILE: the entries to install. The time of installation stays as long as the entries do not change, so that
# repeating this script changes nothing.
wanted() {
	local present installed
	present=$(block "$1")
	installed=$(sed -n 's/^# Installed \([0-9TZ:-]*\)$/\1/p' <<<"$present" | head -n 1)
	if [[ -z $installed || $(entries "$installed") != "$present" ]]; then
		installed=$(date -u +%Y-%m-%dT%H:%M:%SZ)
	fi
	entries "$installed"
}

need_cron() {
	command -v crontab >/dev/null ||
		die "cron is not installed; $(install_hint cron); or use the units in deploy/systemd"
}

print_entries() {
	(current "$old") 2>/dev/null || : >"$old" # without a usable crontab, as before an installation
	wanted "$old"
}

install_entries() {
	current "$old"
	without "$old" >"$new"
	wanted "$old" >>"$new"
	if cmp -s "$old" "$new"; then
		echo "crontab       the entries are up to date"
	else
		crontab "$new"
		echo "crontab       entries installed"
	fi
}

uninstall_entries() {
	current "$old"
	without "$old" >"$new"
	if cmp -s "$old" "$new"; then
		echo "crontab       has no entries of this project"
	elif [[ -s $new ]]; then
		crontab "$new"
		echo "crontab       entries removed"
	else
		crontab -r </dev/null # FreeBSD asks for confirmation on a terminal
		echo "crontab       entries removed; the crontab was empty then and is removed too"
	fi
}

# bare CMD...: runs a command with the environment that cron gives to its jobs, to check that .env has all settings.
bare() {
	env -i HOME="${HOME:-/}" LOGNAME="$(id -un)" SHELL=/bin/sh PATH=/usr/bin:/bin "$@"
}

[[ $project != *$'\n'* ]] || die "the project's path contains a line break; move the project"
case ${1-} in
--print)
	print_entries
	exit
	;;
--uninstall)
	need_cron
	uninstall_entries
	echo "The processor is unchanged; ./scripts/stop-processor.sh stops it."
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
	die ".env is created from .env.example; fill in DATABASE_URL, OPENAI_API_KEY and OPENAI_PROXY, then run this again"
fi
chmod 600 .env
echo "settings      .env, readable by this user only"
grep -q '^ *\(export \)\{0,1\}IMAGE_STORE=' .env || mkdir -p images

bare bin/task-processor migrate | sed 's/^/database      /'

need_cron
install_entries
cat <<TEXT
Done. The monitor runs every five minutes. Next:
  bin/simple-test                  check the connection to the image API
  ./scripts/start-processor.sh     start the processor
  ./scripts/check-status.sh        print the state of everything
TEXT
