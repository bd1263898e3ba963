#!/bin/sh
# Refuse secrets that are none, before a database is made with them.
set -eu

fail() {
  echo "$1; make your own .env: sh compose/new-env.sh" >&2
  exit 1
}

for name in $(env | sed -n 's/^\([A-Z_]*_\(PASSWORD\|KEY\|SECRET\)\)=.*/\1/p'); do
  eval "value=\$$name"
  case $value in
    "" | *change-me*) fail "$name is not set" ;;
    *[!A-Za-z0-9_=-]*) fail "$name has other characters than letters, digits, - and _" ;;
  esac
done
[ "${#AIRFLOW_JWT_SECRET}" -ge 64 ] || fail "AIRFLOW_JWT_SECRET is shorter than 64 characters"
