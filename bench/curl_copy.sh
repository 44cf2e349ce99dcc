# Copy a large object with standard tools: SOURCE_URL DESTINATION_URL SIZE MD5 SAME_CONTENT
set -eu -o pipefail
curl -sS --fail "$1" | curl -sS --fail -X PUT -T - -H "Content-Length: $3" -H "Transfer-Encoding:" \
    -H "Content-MD5: $4" -H "Expect:" "$2"
md5sum "$5"
