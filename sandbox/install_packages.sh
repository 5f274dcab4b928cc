#!/usr/bin/env bash
# Called by ./run as root with the names of Debian packages: installs them so that nothing is started, no
# PostgreSQL cluster is made and nothing is enabled for the next boot.
set -euo pipefail

policy=/usr/sbin/policy-rc.d
no_cluster=/etc/postgresql-common/createcluster.d/pgferry.conf
mark='# written by pgferry for the time of one apt-get'
log=$(mktemp)
before=$(mktemp)

enabled_units() { find /etc/systemd/system /etc/systemd/user /etc/rc[S2-5].d -name '[!K]*' -type l 2>/dev/null | sort; }

forbid_starting() {
    # A run that was killed leaves the mark; what it had set aside is still there and must not be overwritten.
    if [[ -e $policy ]] && ! grep -qsxF "$mark" "$policy"; then
        mv "$policy" "$policy.pgferry"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
    mkdir -p "${no_cluster%/*}"
    printf '%s\ncreate_main_cluster = false\n' "$mark" >"$no_cluster"
}

allow_starting() {
    rm -f "$policy" "$no_cluster"
    if [[ -e $policy.pgferry ]]; then mv "$policy.pgferry" "$policy"; fi
}

disable_new_units() {
    local link
    while read -r link; do
        case $link in
            /etc/rc*) link=${link##*/} && update-rc.d "${link#S[0-9][0-9]}" disable ;;
            *) rm -f "$link" ;;
        esac
    done < <(comm -13 "$before" <(enabled_units))
}

leave() {
    local status=$?
    if ((status)); then cat "$log" >&2; fi
    disable_new_units >>"$log" 2>&1
    allow_starting
    rm -f "$log" "$before"
}

apt() {
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -qq \
        -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@" >>"$log" 2>&1
}

exec 9</usr/sbin
flock 9
enabled_units >"$before"
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
forbid_starting
apt update
apt install -y --no-install-recommends "$@"
