"""A short GIF of a run, rendered off screen by MuJoCo.

A broken OpenGL ends its process rather than raise, so that rendering has a process of its own:
`python -m polo_ros.replay.video FOLDER SECONDS` renders FOLDER/model.mjb in the poses of
FOLDER/qpos.npy to FOLDER/video.gif.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image

import polo_ros
from polo_ros.files import write_whole
from polo_ros.tasks.base import FloatArray

WIDTH, HEIGHT = 320, 240
MAX_FRAMES = 100
START_TIMEOUT = 20.0  # s beyond rendering, for a cold start on a loaded machine


def make_video(model: mujoco.MjModel, qpos: FloatArray, duration: float, path: Path, seconds: float = 6.0) -> str:
    """Render poses to a GIF at `path`.

    Args:
        model: the robot.
        qpos: poses (T, nq), evenly spaced in time.
        duration: s, robot time that they span.
        path: file to write.
        seconds: s that rendering may take; the fewer, the fewer frames.

    Returns:
        "" if the video was made, else the reason why not.
    """
    if len(qpos) == 0:
        return "no transitions to show"
    if qpos.shape[1] != model.nq:
        return f"poses have {qpos.shape[1]} entries, while the model has {model.nq}"
    chosen = os.environ.get("MUJOCO_GL")
    reasons = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mujoco.mj_saveModel(model, str(folder / "model.mjb"))
        np.save(folder / "qpos.npy", qpos, allow_pickle=False)
        for backend in [chosen] if chosen else ["egl", "osmesa"]:
            reason = _render_elsewhere(folder, backend, duration, seconds)
            if not reason:
                write_whole(path, (folder / "video.gif").read_bytes())
                return ""
            reasons.append(f"{backend}: {reason}")
    return f"no offscreen GL: {'; '.join(reasons)}"


def _render_elsewhere(folder: Path, backend: str, duration: float, seconds: float) -> str:
    root = str(Path(polo_ros.__file__).parents[1])
    paths = [path for path in (os.environ.get("PYTHONPATH"), root) if path]
    environment = {**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "polo_ros.replay.video", str(folder), str(duration), str(seconds)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds + START_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"rendering did not end within {seconds + START_TIMEOUT:.0f} s"
    if done.returncode == 0 and (folder / "video.gif").is_file():
        return ""
    if done.returncode < 0:
        return f"the process died of {signal.Signals(-done.returncode).name}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # The first exception is the cause: later ones come from cleaning up after it.
    errors = [number for number, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)]
    shown = lines[errors[0] : errors[0] + 2] if errors else lines[-1:]
    return " ".join(line.strip() for line in shown)[:200] or f"exit status {done.returncode}"


def _render(folder: Path, duration: float, seconds: float) -> None:
    model = mujoco.MjModel.from_binary_path(str(folder / "model.mjb"))
    qpos = np.load(folder / "qpos.npy", allow_pickle=False)
    data = mujoco.MjData(model)
    camera: int | mujoco.MjvCamera = 0
    if model.ncam == 0:
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, camera)
        if model.nbody > 1:  # a robot without a camera of its own is followed
            camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            camera.trackbodyid = 1
    frames: list[Image.Image] = []
    begin = time.monotonic()
    model.vis.quality.offsamples = 0  # GL is often a processor's: smooth edges cost half of all frames
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0

        def frame(row: int) -> Image.Image:
            data.qpos[:] = qpos[row]
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            return Image.fromarray(renderer.render()).quantize(64)

        frame(0)  # the first one is slow: it loads everything
        frame(0)
        warm = time.monotonic()
        frame(0)
        cost = max(time.monotonic() - warm, 1e-4)
        affordable = int((seconds - (warm - begin)) / cost / 1.2)  # the rest goes into the GIF
        count = max(2, min(MAX_FRAMES, len(qpos), affordable))
        for row in np.linspace(0, len(qpos) - 1, count).round().astype(int):
            frames.append(frame(int(row)))
    # Long runs are shown faster than they were: ten seconds are watched, an hour is not.
    shown = min(max(duration, 0.5), 10.0)
    frames[0].save(
        folder / "video.gif",
        save_all=True,
        append_images=frames[1:],
        duration=max(20, round(1000 * shown / len(frames))),
        loop=0,
        optimize=False,
    )


if __name__ == "__main__":
    _render(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
