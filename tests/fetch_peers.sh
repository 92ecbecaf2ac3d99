#!/usr/bin/env bash
# Installs the real programs that some tests hold ZTS against, from Debian and where we may. Never fails: what stays away is named, with
# the tests that are skipped for it. Starts nothing: the tests run their own copies, and a service of the same name must not listen.

# An ordinary user's PATH has no sbin, where mosquitto and sshd are.
PATH="$PATH:/usr/sbin:/sbin"

# program:package:what is skipped without it
peers=(
    'mosquitto:mosquitto:the tests against a real broker'
    'mosquitto_pub:mosquitto-clients:the tests with a foreign MQTT client'
    'sshd:openssh-server:the tests with a real ssh'
    'curl:curl:the tests with a real curl'
    'chromium:chromium:the tests with pages in a real browser'
    'ip:iproute2:the tests in network namespaces'
    'nft:nftables:the tests in network namespaces'
    'nmap:nmap:the tests in network namespaces'
    'strace:strace:the test that the relay never dials'
)

missing=()
find_missing() {
    local peer
    missing=()
    for peer in "${peers[@]}"; do
        command -v "${peer%%:*}" >/dev/null || missing+=("$peer")
    done
}

report() {
    local peer program package skipped
    for peer in "${missing[@]}"; do
        IFS=: read -r program package skipped <<<"$peer"
        echo "$program is missing ($1): skipped are $skipped. To have them: apt-get install $package"
    done
    exit 0
}

find_missing
((${#missing[@]})) || exit 0
command -v apt-get >/dev/null || report 'no apt-get here'

as_root=()
if ((EUID != 0)); then
    sudo -n true 2>/dev/null || report 'not root, and no sudo without a password'
    as_root=(sudo -n)
fi

packages=()
for peer in "${missing[@]}"; do
    IFS=: read -r _ package _ <<<"$peer"
    packages+=("$package")
done
echo "installing ${packages[*]}"

# Downloads may hang, so they have a time limit; unpacking may not be cut off, so it has none but that of the lock.
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60)
"${as_root[@]}" timeout 120 "${apt[@]}" update >/dev/null 2>&1
"${as_root[@]}" timeout 300 "${apt[@]}" install -y --no-install-recommends --download-only "${packages[@]}" >/dev/null 2>&1 || report 'apt-get could not fetch it'

# Packages of services ask this file whether to start them; 101 is its "no".
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]] && printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    "${as_root[@]}" chmod 755 "$policy"
fi
"${as_root[@]}" "${apt[@]}" install -y --no-install-recommends --no-download "${packages[@]}" >/dev/null 2>&1 </dev/null
# Nor shall they start at the next boot. Only what was installed just now is turned off.
if command -v systemctl >/dev/null; then
    for package in "${packages[@]}"; do
        case $package in
            mosquitto) "${as_root[@]}" systemctl disable --quiet mosquitto.service >/dev/null 2>&1 ;;
            openssh-server) "${as_root[@]}" systemctl disable --quiet ssh.service ssh.socket >/dev/null 2>&1 ;;
        esac
    done
fi

find_missing
report 'apt-get could not install it'
