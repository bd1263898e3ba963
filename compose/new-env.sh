#!/bin/sh
# Write .env: .env.example with new secrets, readable by you only. An .env that is there stays.
set -eu
umask 077
set -C

cd "$(dirname "$0")/.."

random() { # bytes -> hexadecimal digits
  head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

while IFS= read -r line; do
  case $line in
    AIRFLOW_FERNET_KEY=change-me)
      echo "AIRFLOW_FERNET_KEY=$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')" ;;
    AIRFLOW_JWT_SECRET=change-me) echo "AIRFLOW_JWT_SECRET=$(random 48)" ;;
    *=change-me) echo "${line%change-me}$(random 24)" ;;
    *) echo "$line" ;;
  esac
done < .env.example > .env
