"""The installed wheel, as its users use it."""

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import numpy
from PIL import Image

import chiaro

SMALL = {"width": 64, "height": 64, "num_inference_steps": 3, "seed": 7}


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.engine = chiaro.Engine("cpu")
        cls.model = cls.engine.load()

    def test_pictures(self):
        [one] = self.model.generate("a red ball", **SMALL)
        self.assertEqual((one.width, one.height, one.seed), (64, 64, 7))
        array = one.numpy()
        self.assertEqual((array.shape, array.dtype), ((64, 64, 3), numpy.uint8))
        self.assertTrue((numpy.asarray(one) == numpy.asarray(one.pil())).all())
        opened = Image.open(io.BytesIO(one.png()))
        self.assertTrue((numpy.asarray(opened) == array).all())
        self.assertEqual(json.loads(opened.text["chiaro"]), one.parameters)
        self.assertEqual(one.parameters["request"]["prompt"], "a red ball")
        two = self.model.generate("a red ball", count=2, **SMALL)
        self.assertEqual([picture.seed for picture in two], [7, 8])
        self.assertEqual(two[0].tobytes(), one.tobytes())

    @unittest.skipUnless(os.environ.get("CHIARO_TEST_COMMAND"), "the command was not named")
    def test_bytes_are_the_command_s(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.png"
            words = ["a red ball", "--device", "cpu", "--width", "64", "--height", "64", "--steps", "3", "--seed", "7", "-o", str(path)]
            subprocess.run([os.environ["CHIARO_TEST_COMMAND"], *words], check=True, capture_output=True)
            [own] = self.model.generate("a red ball", **SMALL)
            self.assertEqual(own.png(), path.read_bytes())

    def test_events(self):
        with self.model.start("a red ball", preview_every=1, **SMALL) as job:
            events = list(job)
        self.assertEqual([event.kind for event in events], ["encoded", "oms", "step", "step", "step", "picture"])
        self.assertEqual([event.done for event in events], [1, 2, 3, 4, 5, 6])
        self.assertEqual(events[-1].total, 6)
        self.assertEqual([event.picture is not None for event in events], [False, False, True, True, False, True])
        self.assertEqual(len(job.images), 1)

    def test_module_comes_and_goes(self):
        [given] = self.model.generate("a solid black image", **SMALL)
        [without] = self.model.generate("a solid black image", oms=False, **SMALL)
        [stronger] = self.model.generate("a solid black image", oms={"guidance_scale": 3}, **SMALL)
        self.assertEqual(len({given.tobytes(), without.tobytes(), stronger.tobytes()}), 3)
        self.assertLess(given.numpy().mean(), without.numpy().mean())
        before = self.engine.statistics()
        self.model.generate("a solid black image", oms=False, **SMALL)
        self.assertEqual(self.engine.statistics()["uploaded_bytes"], before["uploaded_bytes"])

    def test_pictures_to_start_from(self):
        [one] = self.model.generate("a red ball", **SMALL)
        results = set()
        for given in (one, one.pil(), one.numpy(), one.png()):
            [again] = self.model.generate("a red ball", image=given, strength=0.5, **SMALL)
            results.add(again.tobytes())
        self.assertEqual(len(results), 1)
        with self.assertRaises(chiaro.InvalidArgument):
            self.model.generate("a red ball", strength=0.5)

    def test_errors_have_codes(self):
        with self.assertRaises(chiaro.InvalidArgument) as caught:
            self.model.generate("x", promt="y")
        self.assertIn("did you mean prompt?", str(caught.exception))
        self.assertIsInstance(caught.exception, ValueError)
        with self.assertRaises(chiaro.InvalidArgument) as caught:
            self.model.generate("x", num_inference_steps=0)
        self.assertEqual(caught.exception.field, "num_inference_steps")
        with self.assertRaises(chiaro.ModelError):
            self.engine.load("/nowhere/at/all")
        with self.assertRaises(chiaro.InvalidArgument) as caught:
            chiaro.Engine("no such device")
        self.assertEqual(caught.exception.code, "invalid_argument")
        with tempfile.TemporaryDirectory() as folder:
            [one] = self.model.generate("a red ball", **SMALL)
            one.save(Path(folder) / "a.png")
            with self.assertRaises(chiaro.Error):
                one.save(Path(folder) / "a.png")
            one.save(Path(folder) / "a.png", overwrite=True)

    def test_jobs_are_cancelled_from_other_threads(self):
        job = self.model.start("a red ball", width=256, height=256, num_inference_steps=200)
        threading.Timer(0.3, job.cancel).start()
        began = time.monotonic()
        with self.assertRaises(chiaro.Cancelled):
            job.run()
        self.assertLess(time.monotonic() - began, 20)
        with self.assertRaises(chiaro.Cancelled):
            self.engine.load(oms=False, progress=lambda done, of, part: done < 1, prediction="epsilon")
        with self.assertRaises(ZeroDivisionError):
            self.engine.load(oms=False, progress=lambda done, of, part: 1 / 0, prediction="epsilon")

    def test_the_gil_is_given_away(self):
        turns, ended = 0, threading.Event()

        def count():
            nonlocal turns
            while not ended.is_set():
                turns += 1
                time.sleep(0.001)

        thread = threading.Thread(target=count)
        thread.start()
        began = time.monotonic()
        self.model.generate("a red ball", width=128, height=128, num_inference_steps=4, seed=1)
        seconds = time.monotonic() - began
        ended.set()
        thread.join()
        self.assertGreater(turns, 50 * seconds)

    def test_many_threads_use_one_model(self):
        wanted = [self.model.generate(prompt, **SMALL)[0].tobytes() for prompt in ("a red ball", "a blue house")]
        found = [None] * 4

        def draw(at):
            found[at] = self.model.generate(("a red ball", "a blue house")[at % 2], **SMALL)[0].tobytes()

        threads = [threading.Thread(target=draw, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, wanted + wanted)

    def test_diffusers_names(self):
        class Generator:
            def initial_seed(self):
                return 7

        call = dict(prompt="a red ball", num_inference_steps=3, width=64, height=64, generator=Generator(), num_images_per_prompt=1,
                    output_type="pil", guidance_scale=7.5)  # fmt: skip
        [by_theirs] = self.model.generate(**chiaro.from_diffusers(**call))
        [by_ours] = self.model.generate("a red ball", prompt_syntax="plain", **SMALL)
        self.assertEqual(by_theirs.tobytes(), by_ours.tobytes())
        with self.assertRaises(chiaro.InvalidArgument):
            chiaro.from_diffusers(prompt="x", cross_attention_kwargs={})

    def test_what_there_is(self):
        self.assertEqual(chiaro.devices()[-1]["name"], "cpu")
        plan = self.model.plan("a red ball", **SMALL)
        self.assertGreater(plan["peak_bytes"], 1 << 20)
        self.assertEqual((plan["width"], plan["height"]), (64, 64))
        self.assertEqual(self.model.describe()["label"], "demo")
        with chiaro.Engine("cpu", resident_bytes=0) as engine:
            engine.load().generate("a red ball", **SMALL)
            self.assertEqual(engine.statistics()["allocated_bytes"], 0)
        with self.assertRaises(chiaro.InvalidArgument):
            engine.load()

    def test_the_sample_runs(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "sheet.png"
            script = Path(os.environ["CHIARO_TEST_EXAMPLES"]) / "side_by_side.py"
            done = subprocess.run([sys.executable, str(script), str(out), "cpu"], check=True, capture_output=True, text=True)
            self.assertIn("a solid black image, with One More Step: mean brightness 0.0", done.stdout)
            with Image.open(out) as sheet:
                self.assertEqual(sheet.size, (512, 768))


if __name__ == "__main__":
    unittest.main()
