#!/bin/sh
# Installs gantk beside Debian's Orthanc on this machine; run as root in a clone. Rules that are there stay.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
id gantk-serve > /dev/null 2>&1 \
    || useradd --system --home-dir /var/lib/gantk --shell /usr/sbin/nologin gantk-serve
python3 -m venv /opt/gantk
/opt/gantk/bin/pip install --constraint "$here/../../../constraints.txt" "$here/../../..[serve]"

# corrected images replace the old ones, and two workers may share this Orthanc
sed -i -E 's/^( *"(OverwriteInstances|CheckRevisions)" *: *)false/\1true/' /etc/orthanc/orthanc.json
# compressed images are unpacked, since gantk refuses them
sed -i -z -E 's#/\*\*\s*("IngestTranscoding" *: *)"[^"]*",\s*\*\*/#\1"1.2.840.10008.1.2.1",#' /etc/orthanc/orthanc.json

# Debian's Orthanc answers this machine alone, without a password
install -d -m 755 /etc/gantk
[ -e /etc/gantk/rules.toml ] \
    || sed -e 's#http://orthanc:8042#http://127.0.0.1:8042#' -e '/^user = /d' -e '/^password_file = /d' \
        "$here/rules.toml" > /etc/gantk/rules.toml
install -m 644 "$here/gantk-serve.service" /etc/systemd/system/gantk-serve.service
systemctl daemon-reload
systemctl restart orthanc
systemctl enable --now gantk-serve
