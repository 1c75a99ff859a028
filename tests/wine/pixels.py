"""pixels.py A.png B.png MOST: exit code 1 when two pictures of 8-bit RGB differ in size, or in a value by more than MOST.

Prints the largest difference.
"""
import struct, sys, zlib


def decode(path):
    data = open(path, "rb").read()
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert (depth, colour, interlaced) == (8, 2, 0), path
        if kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, stride = zlib.decompress(packed), 3 * width
    above, rows = bytearray(stride), []
    for y in range(height):
        kind, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride):
            left, up, corner = (row[x - 3], above[x], above[x - 3]) if x >= 3 else (0, above[x], 0)
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda value: abs(guess - value))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
        rows.append(row)
        above = row
    return width, height, b"".join(rows)


a, b = decode(sys.argv[1]), decode(sys.argv[2])
if a[:2] != b[:2]:
    sys.exit(f"{a[0]}x{a[1]} and {b[0]}x{b[1]}")
most = max(abs(x - y) for x, y in zip(a[2], b[2]))
print(f"largest difference {most} of 255, in {sum(x != y for x, y in zip(a[2], b[2]))} of {len(a[2])} values")
sys.exit(most > int(sys.argv[3]))
