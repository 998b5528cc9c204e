"""An agent that works until it is stopped: it counts, ten times a second, and asks its model now and then."""

import json
import os
import time
import urllib.request

count = 0
while True:
    count += 1
    if count % 20 == 0:
        body = json.dumps({"model": os.environ["OPENAI_MODEL"], "max_tokens": 20,
                           "messages": [{"role": "user", "content": "still there?"}]}).encode()
        request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body,
                                         {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            answer.read()
    print(count, flush=True)
    time.sleep(0.1)
