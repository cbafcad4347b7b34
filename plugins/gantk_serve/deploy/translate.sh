#!/bin/sh
# What the image runs: translates every image of a folder. Words behind it are options of
# `gantk translate`. Variables, for platforms that give no words, such as grand-challenge.org:
#   GANTK_MODEL   a run folder, or a name of `gantk models`, such as t1t2 (default /model)
#   GANTK_TO      the domain to make (default: the model's second)
#   GANTK_INPUT   the folder to read (default /input)
#   GANTK_OUTPUT  the folder to write (default /output)
set -eu
exec gantk translate "${GANTK_MODEL:-/model}" "${GANTK_INPUT:-/input}" "${GANTK_OUTPUT:-/output}" \
    ${GANTK_TO:+--to "$GANTK_TO"} "$@"
