#!/usr/bin/env bash
# Installs the headless Chromium in which tests/report/test_report_page.py opens reports: as root on Debian.
# Anywhere else it prints a message and exits with 0, and the tests that need a browser are skipped.
set -euo pipefail

for name in chromium chromium-headless-shell chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
  echo "install_browser: no Chromium, and no way to install one here" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -qq update && apt-get -qq install --no-install-recommends chromium-headless-shell fonts-dejavu-core; } >/dev/null; then
  echo "install_browser: apt-get could not install Chromium, see above" >&2
fi
