# bash completion of @PROGRAM@; load it with: source <(@PROGRAM@ completion bash)
@FUNCTION@() {
	local line program=${COMP_WORDS[0]/#\~/$HOME}
	COMPREPLY=()
	while IFS= read -r line; do
		case $line in
		:files*) compopt -o default ;;
		:directories*) compopt -o dirnames ;;
		*) COMPREPLY+=("${line%%$'\t'*}") ;;
		esac
	done < <("$program" __complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F @FUNCTION@ @PROGRAM@
