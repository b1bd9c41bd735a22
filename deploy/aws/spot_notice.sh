#!/bin/sh
# Waits until Amazon takes this spot machine back, and tells Ray: the lanes on it then keep the states
# of their trials. Amazon gives two minutes' notice.
#
#   spot_notice.sh RAY ADDRESS     the `ray` to call, and host:port of the cluster's head
set -u
ray=$1 address=$2
metadata=${SPOT_METADATA:-http://169.254.169.254}/latest

ask() { curl --silent --fail --max-time 5 "$@"; }

# The notice is a page that appears only then; every page needs a session token.
noticed() {
  token=$(ask --request PUT --header "X-aws-ec2-metadata-token-ttl-seconds: 60" \
    "$metadata/api/token") &&
    ask --output /dev/null --header "X-aws-ec2-metadata-token: $token" \
      "$metadata/meta-data/spot/instance-action"
}

until noticed; do sleep "${SPOT_LOOK_SEC:-5}"; done
until "$ray" drain-node --address "$address" --reason DRAIN_NODE_REASON_PREEMPTION \
  --reason-message "Amazon takes this spot machine back" --deadline-remaining-seconds 110; do
  sleep "${SPOT_LOOK_SEC:-5}"
done
