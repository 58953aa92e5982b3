# shellcheck shell=sh
booted_systemd() { [ -d /run/systemd/system ]; }
