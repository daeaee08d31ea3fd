"""How the plugin gets into fairseq: by `register`, which fairseq calls where the package is its ``--user-dir``."""

import os
import sys


def register() -> None:
    """Put the plugin into fairseq: its optimizers, criterions, models, tokenizer and tasks, the wrappers around fairseq's trainer
    in which they work, and the repairs of fairseq. Repeated calls change nothing.

    Raises:
        ImportError: fairseq is not installed. An installed one that cannot be imported raises what it raises.

    Example::

        import sharp_plugins

        sharp_plugins.register()
        args = options.parse_args_and_arch(options.get_training_parser(), [..., "--optimizer", "sam"])
    """
    from sharp_plugins import criterions, optim  # noqa: F401
    from sharp_plugins.candidates import task as candidates  # noqa: F401
    from sharp_plugins.cloze import task as cloze  # noqa: F401
    from sharp_plugins.contrastive import criterion  # noqa: F401
    from sharp_plugins.contrastive import task as contrastive  # noqa: F401
    from sharp_plugins.host.install import install
    from sharp_plugins.models import adapter, bert, decoder, lora, prefix  # noqa: F401
    from sharp_plugins.prompted import task  # noqa: F401
    from sharp_plugins.text import bpe  # noqa: F401

    install()


def is_namesake(directory: str) -> bool:
    """Whether a directory has the package's name and is no package, as a clone's root in the folder that it was cloned into.

    There ``--user-dir sharp_plugins`` is that directory to fairseq, and this package to Python, which imports it from elsewhere.
    """
    is_package = os.path.isfile(os.path.join(directory, "__init__.py"))
    return os.path.basename(os.path.normpath(directory)) == __package__ and not is_package


def register_for_namesake() -> None:
    """`register` where fairseq is importing the package for a namesake of it, in which it would find nothing of the plugin."""
    import_user_module = getattr(sys.modules.get("fairseq.utils"), "import_user_module", None)
    if any(map(is_namesake, getattr(import_user_module, "memo", ()))):  # fairseq's list of the user dirs, the present one too
        register()


class PackagePath(list):
    """The package's ``__path__``, which notices that fairseq wants the package as its ``--user-dir``.

    fairseq imports the package and then every file in its models/, where `sharp_plugins.models.register` waits. But if the
    program has imported the package before, fairseq imports nothing: it only looks whether the directory is in ``__path__``.
    It may be there under another name: fairseq calls a directory beside its own ``fairseq/../sharp_plugins``. Or it is a namesake.

    Example::

        >>> "elsewhere" in PackagePath(["sharp_plugins"])
        False
    """

    def __contains__(self, directory):
        if sys._getframe(1).f_code.co_name != "import_user_module":
            return super().__contains__(directory)
        found = os.path.realpath(directory) in map(os.path.realpath, self) or is_namesake(directory)
        if found:
            register()
        return found
