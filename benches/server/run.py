#!/usr/bin/env python3
"""Many clients of `chiaro serve` at once: pictures a second, waiting times, and whether each got what it asked for, once. With and without shared forwards,
in turns, on the demo model.

    python3 benches/server/run.py PROGRAM [--clients 64] [--seconds 600] [--together 1 4] [--size 64] [--steps 8] [--device cpu]

PROGRAM is built with the feature `serve`. Each client asks for a picture, waits for it, and asks for the next, with a seed that nobody else asks for.
"""
import argparse, http.client, json, socket, statistics, subprocess, tempfile, threading, time, urllib.request

PROMPTS = ["a red circle", "a solid black image", "a blue square on a white background", "a house in the snow", "a green star"]


def serve(a, together, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [a.program, "serve", "--port", str(port), "--folder", folder, "--device", a.device, "--together", str(together)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(400):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/chiaro/health/ready", timeout=5).read()
            return process, port
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server does not answer")


def client(a, port, number, until, found, wrong):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    turn = 0
    while time.monotonic() < until:
        seed = number * 1_000_000 + turn
        turn += 1
        body = dict(prompt=PROMPTS[seed % len(PROMPTS)], width=a.size, height=a.size, steps=a.steps, seed=seed)
        began = time.monotonic()
        connection.request("POST", "/sdapi/v1/txt2img", json.dumps(body), {"Content-Type": "application/json", "X-Client-Id": f"client {number}"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        if answer.status != 200 or len(told["images"]) != 1 or json.loads(told["info"])["all_seeds"] != [seed]:
            wrong.append((answer.status, str(told)[:200]))
            return
        found.append((seed, time.monotonic() - began))


def metric(port, name):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/chiaro/metrics").read().decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--together", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    print("| steps share forwards | pictures | a second | p50 | p99 | lost, doubled, refused | jobs a shared forward | steps that were shared |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- |")
    for together in a.together:
        with tempfile.TemporaryDirectory() as folder:
            process, port = serve(a, together, folder)
            found, wrong = [], []
            until = time.monotonic() + a.seconds
            began = time.monotonic()
            threads = [threading.Thread(target=client, args=(a, port, number, until, found, wrong)) for number in range(a.clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.monotonic() - began
            drawn = metric(port, "chiaro_images_total")
            forwards, steps = metric(port, "chiaro_shared_forwards_total"), metric(port, "chiaro_shared_steps_total")
            process.terminate()
            assert process.wait(120) == 0
            seeds = [seed for seed, _ in found]
            bad = len(wrong) + abs(int(drawn) - len(seeds)) + len(seeds) - len(set(seeds))
            times = sorted(seconds for _, seconds in found)
            at = lambda share: times[min(len(times) - 1, int(share * len(times)))]
            print(f"| {'up to ' + str(together) if together > 1 else 'no'} | {len(found)} | {len(found) / took:.1f} | {at(0.5):.2f} s | {at(0.99):.2f} s | {bad} "
                  f"| {steps / forwards if forwards else 0:.2f} | {100 * steps / (len(found) * a.steps):.0f} % |", flush=True)
            for status, told in wrong[:3]:
                print(f"{status}: {told}")


if __name__ == "__main__":
    main()
