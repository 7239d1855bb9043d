#!/bin/sh
# venv.sh DIR REQUIREMENTS: a virtual environment in DIR with exactly what
# REQUIREMENTS pins, by hash and from wheels, so that nothing is run to install
# it. It is done when DIR/complete exists.
set -eu
rm -rf "$1"
python3 -m venv "$1"
"$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
	--require-hashes --only-binary :all: -r "$2"
touch "$1/complete"
