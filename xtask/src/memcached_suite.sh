#!/bin/sh
# Stands where memcached's own tests look for their server. Starts memtier on the server that is about to be, and becomes it: the
# pid that a test kills is the server's. memtier ends when the server does.
#
# SUITE_SERVER: the real one. SUITE_MEMTIER: whom to start beside it, nobody if empty; SUITE_VERB: `run` or `slab-automove`, and
# options. SUITE_LOGS: a directory for what each says.

host=127.0.0.1 port=11211 socket= login= other= last=
for word in "$@"; do
	case $last in
	-s) socket=$word ;;
	-p) port=$word ;;
	-l) host=$word ;;
	-Y) login=$word ;;
	esac
	case $word in
	# No server, or none that speaks text in the clear.
	-h | -i | -V | -S | -Z) other=1 ;;
	esac
	case $last$word in
	-Bbinary) other=1 ;;
	esac
	last=$word
done

if [ -n "$SUITE_MEMTIER" ] && [ -z "$other" ]; then
	case $host in
	# The port is in it.
	*:*) place=$host ;;
	0.0.0.0) place=127.0.0.1:$port ;;
	*) place=$host:$port ;;
	esac
	place=${socket:-$place}
	own=$(mktemp -d "$SUITE_LOGS/server-XXXXXX")
	(
		case $SUITE_VERB in
		slab-automove*)
			set -- --host "$place"
			[ -z "$login" ] || set -- "$@" --auth-file "$login"
			;;
		*)
			printf '[[cache]]\nserver = "%s"\n' "$place" >"$own/memtier.toml"
			[ -z "$login" ] || printf 'auth_file = "%s"\n' "$login" >>"$own/memtier.toml"
			set -- --config "$own/memtier.toml"
			;;
		esac
		# shellcheck disable=SC2086 # options are words
		exec setpriv --pdeathsig TERM "$SUITE_MEMTIER" --run-dir "$own/run" $SUITE_VERB "$@" </dev/null >"$own/log" 2>&1
	) &
fi
exec "$SUITE_SERVER" "$@"
