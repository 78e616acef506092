#compdef @PROGRAM@
# zsh completion of @PROGRAM@; load it after compinit with: source <(@PROGRAM@ completion zsh)
@FUNCTION@() {
	local line program=${words[1]/#\~/$HOME}
	local -a found
	while IFS= read -r line; do
		case $line in
		:files*) _files; return ;;
		:directories*) _files -/; return ;;
		*) found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
		esac
	done < <("$program" __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)
	_describe -t values value found
}
if [ "$funcstack[1]" = "@FUNCTION@" ]; then
	@FUNCTION@ "$@"
else
	compdef @FUNCTION@ @PROGRAM@
fi
