"""What goes wrong between a client and an S3 store: loaded by mitmdump (its own Python), without our code.

FAULTS, for example `unavailable=5,slow=11,lost=3,cut=7,corrupt=4`: every 5th request is answered 503, every 11th waits
half a second; of every 3rd write the answer is lost (the store has carried it out), every 7th read breaks off, and in
every 4th object that is read one byte is flipped, without a checksum of the store's that would tell.
FAULTS_LOG: a file with one line per fault that was made.
"""

import asyncio
import os
from collections import Counter
from typing import Any

from mitmproxy import http

EVERY = {name: int(n) for name, n in (part.split("=") for part in os.environ["FAULTS"].split(",") if part)}
SEEN: Counter[str] = Counter()


def due(fault: str) -> bool:
    SEEN[fault] += 1
    now = fault in EVERY and SEEN[fault] % EVERY[fault] == 0
    if now:
        with open(os.environ["FAULTS_LOG"], "a") as log:
            log.write(f"{fault}\n")
    return now


async def request(flow: Any) -> None:
    if due("slow"):
        await asyncio.sleep(0.5)
    if due("unavailable"):
        flow.response = http.Response.make(503, b"<Error><Code>ServiceUnavailable</Code></Error>")


def response(flow: Any) -> None:
    if flow.response.status_code >= 300:
        return
    if due("lost" if flow.request.method == "PUT" else "cut"):
        flow.kill()
        return
    read = flow.request.method == "GET" and flow.response.content and "list-type" not in flow.request.query
    if read and due("corrupt"):
        body = bytearray(flow.response.content)
        body[len(body) // 2] ^= 1
        flow.response.content = bytes(body)
        for name in [name for name in flow.response.headers if name.lower().startswith("x-amz-checksum")]:
            del flow.response.headers[name]
