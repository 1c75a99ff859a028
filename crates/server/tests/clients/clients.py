"""PyPI's webuiapi and openai, end to end."""
import base64
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import openai
import webuiapi
from PIL import Image, ImageDraw

sys.path.insert(0, os.path.dirname(__file__))
from served import Served

KEY = "a-key-of-these-tests-1"


def image(size=(64, 64), colour=(200, 40, 40)):
    return Image.new("RGB", size, colour)


def with_webuiapi(served):
    api = webuiapi.WebUIApi(host="127.0.0.1", port=served.port, sampler="Euler a", steps=3)
    api.set_auth("anyone", KEY)
    assert [m["title"] for m in api.get_sd_models()] == ["demo"]
    assert api.util_get_model_names() == ["demo"]
    api.util_set_model("demo")
    assert api.util_get_current_model() == "demo"
    assert len(api.get_samplers()) > 15 and len(api.get_schedulers()) > 5
    for listed in (api.get_upscalers(), api.get_hypernetworks(), api.get_face_restorers(), api.get_realesrgan_models(), api.get_prompt_styles(),
                   api.get_loras(), api.get_sd_vae()):
        assert listed == []
    assert api.get_latent_upscale_modes() == [{"name": "Latent"}]
    assert set(api.get_embeddings()) == {"loaded", "skipped"}
    assert api.get_cmd_flags() == {} and "txt2img" in api.get_scripts() and "ram" in api.get_memory()
    assert api.refresh_checkpoints() == {} and api.interrupt() == {} and api.skip() == {}
    options = api.get_options()
    api.set_options(options)
    drawn = api.txt2img(prompt="a red circle", negative_prompt="fog", seed=5, width=64, height=64, cfg_scale=7, batch_size=1, n_iter=2)
    assert len(drawn.images) == 2 and drawn.image.size == (64, 64) and drawn.info["all_seeds"] == [5, 6], drawn.info
    assert drawn.parameters["prompt"] == "a red circle"
    again = api.txt2img(prompt="a red circle", negative_prompt="fog", seed=5, width=64, height=64, cfg_scale=7)
    assert again.image.tobytes() == drawn.images[0].tobytes(), "the same seed is the same picture"
    large = api.txt2img(prompt="a red circle", seed=5, width=64, height=64, enable_hr=True, hr_scale=2, denoising_strength=0.5)
    assert large.image.size == (128, 128)
    started = api.img2img(images=[image()], prompt="a blue square", seed=1, width=64, height=64, denoising_strength=0.6)
    assert started.image.size == (64, 64)
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((8, 8, 39, 39), fill=255)
    painted = api.img2img(images=[image()], mask_image=mask, mask_blur=0, inpainting_fill=1, inpaint_full_res=False, prompt="a black square", seed=1, width=64,
                          height=64, denoising_strength=1.0)
    assert painted.image.getpixel((60, 60)) == (200, 40, 40), "what the mask keeps is kept"
    assert painted.image.getpixel((20, 20)) != (200, 40, 40), "what it covers is painted"
    info = api.png_info(drawn.image)
    assert info.info.startswith("a red circle") and "Steps: 3" in info.info, info.info
    api.util_wait_for_ready()
    try:
        api.txt2img(prompt="x", width=64, height=64, restore_faces=True)
        raise AssertionError("faces are not restored")
    except RuntimeError as refused:
        assert refused.args[0] == 422 and "restore_faces" in refused.args[1]


def with_openai(served):
    client = openai.OpenAI(base_url=served.address + "/v1", api_key=KEY, max_retries=0)
    assert [m.id for m in client.models.list()] == ["demo"] and client.models.retrieve("demo").id == "demo"
    extra = dict(seed=5, steps=3)
    drawn = client.images.generate(model="demo", prompt="a red circle", n=2, size="64x64", response_format="b64_json", extra_body=extra)
    pictures = [base64.b64decode(d.b64_json) for d in drawn.data]
    assert len(pictures) == 2 and Image.open(io.BytesIO(pictures[0])).size == (64, 64)
    without = client.images.generate(model="demo", prompt="a red circle", size="64x64", extra_body=dict(extra, oms=False))
    assert base64.b64decode(without.data[0].b64_json) != pictures[0]
    events = list(client.images.generate(model="demo", prompt="a red circle", size="64x64", stream=True, partial_images=2, extra_body=dict(extra, steps=9)))
    assert [e.type for e in events][-1] == "image_generation.completed" and len(events) in (2, 3), [e.type for e in events]
    assert events[0].type == "image_generation.partial_image" and events[0].partial_image_index == 0
    hole = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    ImageDraw.Draw(hole).rectangle((0, 0, 31, 63), fill=(0, 0, 0, 0))
    files = []
    for name, picture in (("a.png", image()), ("m.png", hole)):
        file = io.BytesIO()
        picture.save(file, "PNG")
        file.seek(0)
        file.name = name
        files.append(file)
    edited = client.images.edit(model="demo", image=files[0], mask=files[1], prompt="a black square", size="64x64", extra_body=extra)
    edited = Image.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json)))
    assert edited.getpixel((60, 30)) == (200, 40, 40) and edited.getpixel((5, 30)) != (200, 40, 40)
    for call, kind in ((dict(model="dall-e-3", prompt="x"), openai.NotFoundError), (dict(model="demo", prompt="x", size="65x65"), openai.BadRequestError)):
        try:
            client.images.generate(**call)
            raise AssertionError(call)
        except kind:
            pass
    try:
        openai.OpenAI(base_url=served.address + "/v1", api_key="another-key-0123456").models.list()
        raise AssertionError("another key")
    except openai.AuthenticationError:
        pass
    lines = [json.dumps(dict(custom_id=f"line {i}", method="POST", url="/v1/images/generations",
                             body=dict(model="demo", prompt="a red circle", size="64x64", seed=i, steps=3))) for i in range(4)]
    given = io.BytesIO("\n".join(lines).encode())
    given.name = "lines.jsonl"
    file = client.files.create(file=given, purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")
    for _ in range(600):
        batch = client.batches.retrieve(batch.id)
        if batch.status == "completed":
            break
        time.sleep(0.05)
    assert batch.status == "completed" and batch.request_counts.completed == 4, batch
    results = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [r["custom_id"] for r in results] == [f"line {i}" for i in range(4)]
    assert all(r["response"]["body"]["data"][0]["b64_json"] for r in results)
    assert client.files.delete(file.id).deleted and len(list(client.batches.list())) == 1


def commands_of_the_docs(served):
    """The curl commands of docs/SERVER.md, as they stand there but for the port."""
    text = (Path(__file__).resolve().parents[4] / "docs/SERVER.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```sh\n")[1:]]
    blocks = [block for block in blocks if block.startswith("curl ")]
    assert len(blocks) >= 3, "is the search right?"
    for block in blocks:
        block = block.replace("localhost:7860", f"localhost:{served.port}").replace("curl -sS", f"curl -sS --fail-with-body -H 'X-Api-Key: {KEY}'")
        done = subprocess.run(["bash", "-euc", block], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{block}\n{done.stdout[:500]}{done.stderr}"


if __name__ == "__main__":
    with Served(sys.argv[1], env=dict(os.environ, CHIARO_API_KEY=KEY)) as served:
        with_webuiapi(served)
        print("webuiapi: ok")
        with_openai(served)
        print("openai: ok")
        commands_of_the_docs(served)
        print("commands of the docs: ok")
