"""Stable Diffusion with One More Step, on any GPU that wgpu reaches and on none.

    import chiaro

    with chiaro.Engine() as engine:
        model = engine.load()                    # the demo model; or a folder, a file, a name
        [picture] = model.generate("a red ball")
        picture.save("ball.png")

Every option of a request is a keyword, under the names of docs/OPTIONS.md without their prefix: `guidance_scale=7`, `sampler="dpm++ 2m karras"`,
`hires={"scale": 2}`. `from_diffusers` turns diffusers' names into these. Computing gives the GIL away.
"""

from __future__ import annotations

import base64
import io
import json
import os
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, Union

from . import _chiaro

__all__ = [
    "Cancelled", "DeviceError", "DeviceLost", "Engine", "Error", "Event", "Image", "InternalError", "InvalidArgument", "IoError", "Job", "Model",
    "ModelError", "NonFinite", "OutOfMemory", "Unsupported", "devices", "from_diffusers", "inspect",
]  # fmt: skip
__version__: str = _chiaro.version


class Error(Exception):
    """What went wrong. `code` is for programs; `field`, `file`, `tensor` and `remedies` are set where they are known."""

    code = "unknown"

    def __init__(self, message: str, known: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(message)
        known = known or {}
        self.field: Optional[str] = known.get("field")
        self.file: Optional[str] = known.get("file")
        self.tensor: Optional[str] = known.get("tensor")
        self.remedies: list[str] = known.get("remedies") or []


class InvalidArgument(Error, ValueError):
    """A field of a request that cannot be."""

    code = "invalid_argument"


class Unsupported(Error):
    """The device has not, or not so large, what is asked."""

    code = "unsupported"


class ModelError(Error):
    """A model's file that is missing, damaged, or something else."""

    code = "model"


class IoError(Error, OSError):
    """A file that could not be read or written."""

    code = "io"


class OutOfMemory(Error, MemoryError):
    """Memory of the device or the host."""

    code = "out_of_memory"


class DeviceError(Error):
    """The device refused something."""

    code = "device"


class DeviceLost(Error):
    """The device is gone: `Engine.recover()`, then load and ask again."""

    code = "device_lost"


class Cancelled(Error):
    """Somebody asked to stop."""

    code = "cancelled"


class NonFinite(Error):
    """A network overflowed."""

    code = "non_finite"


class InternalError(Error):
    """A fault of the library."""

    code = "internal"


_ERRORS = {
    kind.code: kind
    for kind in [InvalidArgument, Unsupported, ModelError, IoError, OutOfMemory, DeviceError, DeviceLost, Cancelled, NonFinite, InternalError]
}


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except _chiaro.Failure as failure:
        code, message, details = failure.args
        known = json.loads(details)
        # A request's fields are keywords here.
        if known.get("field"):
            known["field"] = known["field"].removeprefix("request.")
        raise _ERRORS.get(code, Error)(message.removeprefix("request."), known) from None


Path = Union[str, "os.PathLike[str]"]

# Fields of a job that stand beside its request.
_BESIDE = {"adapters", "adapter_folder", "embeddings", "controls", "image", "preset", "like", "model"}


def _picture(value: Any) -> Any:
    """A picture for a job: a path stays one, everything else becomes a PNG's bytes."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, Image):
        value = value.png()
    if not isinstance(value, (bytes, bytearray, memoryview)):
        if not hasattr(value, "save"):
            from PIL import Image as pil

            value = pil.fromarray(value)
        out = io.BytesIO()
        value.save(out, format="PNG")
        value = out.getvalue()
    return {"bytes": base64.b64encode(bytes(value)).decode("ascii")}


def _adapter(value: Any) -> Any:
    if isinstance(value, (str, os.PathLike)):
        return {"file": os.fspath(value)}
    if isinstance(value, tuple):
        return {"file": os.fspath(value[0]), "weight": value[1]}
    return value


def _beside(name: str, value: Any) -> Any:
    if name == "adapters":
        return [_adapter(one) for one in value]
    if name == "embeddings":
        return [os.fspath(one) for one in value]
    if name == "image":
        fields = dict(value) if isinstance(value, Mapping) else {"file": value}
        return {key: _picture(own) if key in ("file", "mask") else own for key, own in fields.items()}
    if name == "controls":
        return [{key: _picture(own) if key == "image" else own for key, own in dict(one).items()} for one in value]
    if name == "like":
        return _picture(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _job(request: Mapping[str, Any], beside: Mapping[str, Any]) -> str:
    job: dict[str, Any] = {"version": 1}
    job.update({name: _beside(name, value) for name, value in beside.items() if value is not None})
    asked = {name: value for name, value in request.items() if value is not None}
    if asked:
        job["request"] = asked
    return json.dumps(job)


class Engine:
    """A device, and the networks that stay on it. Models of one engine share its memory.

    `device`: "auto", "cpu", "vulkan", "metal", "dx12", an index of `devices()`, or a part of a name. `precision`: "auto", "f16", "bf16", "f32". `weights`:
    "auto", "f16", "q8_0", "q4_0". `vae_tiling`, `stream_weights`: "auto", "on", "off". `resident_bytes`: the most that stays on the device; 0:
    nothing. `model_folders`: where models are found by name. `hash_file`: where SHA-256 of weight files are kept.
    """

    def __init__(
        self,
        device: Union[str, int] = "auto",
        *,
        precision: str = "auto",
        weights: Optional[str] = None,
        vae_tiling: str = "auto",
        stream_weights: str = "auto",
        resident_bytes: Optional[int] = None,
        model_folders: Sequence[Path] = (),
        hash_file: Optional[Path] = None,
    ) -> None:
        asked = {"name": str(device), "precision": precision, "vae_tiling": vae_tiling, "stream_weights": stream_weights}
        if weights is not None:
            asked["weights"] = weights
        folders = [os.fspath(folder) for folder in model_folders]
        self._own: Optional[_chiaro.Engine] = _call(
            _chiaro.Engine, json.dumps(asked), resident_bytes != 0, resident_bytes or None, folders, hash_file
        )

    def _open(self) -> Any:
        if self._own is None:
            raise InvalidArgument("engine: it is closed")
        return self._own

    def load(
        self,
        model: Optional[Path] = None,
        *,
        oms: Union[None, bool, Path] = None,
        oms_text_encoder: Optional[Path] = None,
        adapters: Sequence[Any] = (),
        embeddings: Sequence[Path] = (),
        controls: Sequence[Any] = (),
        progress: Optional[Callable[[int, int, str], bool]] = None,
        **parts: Any,
    ) -> "Model":
        """Opens a model: a folder, a single file, a name; None is the demo model. `oms`: a module's folder or name, False for none; None: the demo's with
        the demo model. `adapters`: paths, or (path, weight). `parts`: unet, vae, text_encoder, preview_vae, refiner, prediction. `progress(done, of,
        part)` is called before each part and ends the loading where it gives False."""
        own: dict[str, Any] = {name: os.fspath(value) for name, value in parts.items() if value is not None}
        if model is not None:
            own["name"] = os.fspath(model)
        if oms is not None:
            own["oms"] = "off" if oms is False else "demo" if oms is True else os.fspath(oms)
        if oms_text_encoder is not None:
            own["oms_text_encoder"] = os.fspath(oms_text_encoder)
        beside: dict[str, Any] = {"model": own or None, "adapters": adapters or None, "embeddings": embeddings or None, "controls": controls or None}
        return Model(_call(_chiaro.Model, self._open(), _job({}, beside), progress))

    def describe(self) -> dict[str, Any]:
        """device, storage, weights, remarks."""
        return json.loads(_call(self._open().describe))

    def statistics(self) -> dict[str, int]:
        """Bytes uploaded and allocated, programs compiled, hits, evictions."""
        return json.loads(_call(self._open().statistics))

    def trim(self) -> None:
        """Gives up what stays on the device and nobody uses."""
        _call(self._open().trim)

    def recover(self) -> None:
        """Opens the device anew after `DeviceLost`."""
        _call(self._open().recover)

    def close(self) -> None:
        """Gives up what stays on the device; its models can still be used, and hold it open."""
        if self._own is not None:
            self._own.trim()
            self._own = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Engine({self.describe()['device']!r})" if self._own is not None else "Engine(closed)"


class Model:
    """A loaded model; `Engine.load` makes them. It can be used from several threads."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def start(
        self,
        prompt: Optional[str] = None,
        *,
        oms: Union[None, bool, Path, Mapping[str, Any]] = None,
        preview_every: int = 0,
        **request: Any,
    ) -> "Job":
        """A request, checked and not begun. `oms`: False leaves the module out, a path takes another one, a dict says its `prompt`, `guidance_scale`, …
        Other keywords are a request's fields, or adapters, embeddings, controls, image (a path, bytes, a PIL image, an array), preset, like."""
        beside = {name: request.pop(name) for name in list(request) if name in _BESIDE}
        if prompt is not None:
            request["prompt"] = prompt
        if isinstance(oms, Mapping):
            request["oms"] = dict(oms)
        elif oms not in (None, True, False):
            beside["model"] = {**(beside.get("model") or {}), "oms": os.fspath(oms)}  # type: ignore[arg-type]
        strength = request.pop("strength", None)
        if strength is not None:
            if beside.get("image") is None:
                raise InvalidArgument("strength: needs a picture to start from, name it with image", {"field": "strength"})
            image = beside["image"]
            beside["image"] = {**(image if isinstance(image, Mapping) else {"file": image}), "strength": strength}
        return Job(_call(self._own.start, _job(request, beside), oms is False, preview_every))

    def generate(self, prompt: Optional[str] = None, **request: Any) -> "list[Image]":
        """Draws a request; keywords are those of `start`."""
        with self.start(prompt, **request) as job:
            return job.run()

    def plan(self, prompt: Optional[str] = None, **request: Any) -> dict[str, Any]:
        """Work and memory of a request, as `chiaro plan --json` tells them. No weights are read."""
        beside = {name: request.pop(name) for name in list(request) if name in _BESIDE}
        if prompt is not None:
            request["prompt"] = prompt
        return json.loads(_call(self._own.plan, _job(request, beside)))

    def describe(self) -> dict[str, Any]:
        """label, oms, width, height, adapters."""
        return json.loads(_call(self._own.describe))

    def __repr__(self) -> str:
        return f"Model({self.describe()['label']!r})"


@dataclass(frozen=True)
class Event:
    """A unit of work that is done: `kind` is encoded, oms, step, enlarged or picture."""

    kind: str
    #: Which picture, from 0.
    image: int
    #: Step `step` (from 1) of `of`.
    step: int
    of: int
    #: Units of work that are done, of all.
    done: int
    total: int
    seconds: float
    seconds_left: float
    #: The picture, or a preview with a step.
    picture: "Optional[Image]"


class Job:
    """A request under way: an iterator of events. It runs on the thread that iterates; `cancel` is for any thread."""

    def __init__(self, own: Any) -> None:
        self._own = own
        #: Pictures that are done.
        self.images: list[Image] = []
        #: What a user should know.
        self.notes: list[str] = own.notes

    def __iter__(self) -> "Iterator[Event]":
        return self

    def __next__(self) -> Event:
        told = _call(self._own.step)
        if told is None:
            raise StopIteration
        kind, image, step, of, done, seconds, picture = told
        drawn = None if picture is None else Image(picture)
        if kind == "picture" and drawn is not None:
            self.images.append(drawn)
        total = self._own.total
        return Event(kind, image, step, of, done, total, seconds, seconds / done * (total - done), drawn)

    def run(self) -> "list[Image]":
        """Does all that is left."""
        for _ in self:
            pass
        return self.images

    def cancel(self) -> None:
        """Asks it to end, also inside a step: iterating raises `Cancelled` soon after."""
        self._own.cancel()

    def close(self) -> None:
        """Ends it and gives back what it holds."""
        self._own.close()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Image:
    """A picture: 8-bit RGB. `numpy()` and `pil()` need those packages."""

    def __init__(self, own: Any) -> None:
        self._own = own

    @property
    def width(self) -> int:
        return self._own.width

    @property
    def height(self) -> int:
        return self._own.height

    @property
    def seed(self) -> int:
        return self._own.seed

    @property
    def parameters(self) -> dict[str, Any]:
        """All that is needed to draw it again."""
        return json.loads(self._own.parameters())

    def tobytes(self) -> bytes:
        """Rows from the top, three bytes a pixel."""
        return self._own.tobytes()

    def numpy(self) -> Any:
        """`uint8[height, width, 3]`."""
        import numpy

        return numpy.frombuffer(self.tobytes(), dtype=numpy.uint8).reshape(self.height, self.width, 3).copy()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def pil(self) -> Any:
        """A `PIL.Image.Image`."""
        from PIL import Image as pil

        return pil.frombytes("RGB", (self.width, self.height), self.tobytes())

    def png(self) -> bytes:
        """A PNG with the parameters, the bytes that the command `chiaro` writes."""
        return _call(self._own.png)

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """The PNG as a file, complete or not at all. A file of that name stays unless `overwrite` is said."""
        _call(self._own.save, os.fspath(path), overwrite)

    def _repr_png_(self) -> bytes:
        return self.png()

    def __repr__(self) -> str:
        return f"Image({self.width}x{self.height}, seed {self.seed})"


def devices() -> "list[dict[str, Any]]":
    """All devices, the processor last."""
    return json.loads(_call(_chiaro.devices))


def inspect(path: Path) -> dict[str, Any]:
    """What lies at a path, as `chiaro inspect --json` tells it."""
    return json.loads(_call(_chiaro.inspect, os.fspath(path)))


# What diffusers' StableDiffusionPipeline.__call__ and its relatives call as it is called here.
_SAME = {
    "prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "width", "height", "num_inference_steps", "guidance_scale", "guidance_rescale",
    "eta", "strength", "image", "image_guidance_scale", "clip_skip", "original_size", "crops_coords_top_left", "target_size", "aesthetic_score",
    "negative_aesthetic_score",
}  # fmt: skip
# What says how results come back, which here has other ways.
_IGNORED = {"output_type", "return_dict", "callback", "callback_steps", "callback_on_step_end", "callback_on_step_end_tensor_inputs"}


def from_diffusers(**call: Any) -> dict[str, Any]:
    """The keywords of `Model.generate` for those of a call of diffusers' pipelines: `model.generate(**chiaro.from_diffusers(prompt=…, generator=…))`.

    A generator stands for its seed (`torch.Generator.initial_seed`); the noise is torch's of the processor. What has no meaning here raises
    `InvalidArgument`."""
    ours: dict[str, Any] = {"prompt_syntax": "plain"}
    mask = None
    for name, value in call.items():
        if value is None or name in _IGNORED:
            continue
        if name == "generator":
            ours["seed"] = value if isinstance(value, int) else value.initial_seed()
        elif name == "mask_image":
            mask = value
        elif name == "num_images_per_prompt":
            ours["count"] = value
        elif name in _SAME:
            ours[name] = value
        else:
            raise InvalidArgument(f"{name}: has no meaning here", {"field": name})
    if mask is not None:
        ours["image"] = {"file": ours.get("image"), "mask": mask}
    return ours
