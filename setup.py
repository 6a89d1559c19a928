"""What pyproject.toml cannot say: the notebooks lie beside the package, and come with it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("notebooks", "requirements-smol.txt")


class BuildWithNotebooks(build_py):
    """The package, with the notebooks in `qrpo_lib/shipped`. An editable installation takes them from the checkout."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        root, target = Path(__file__).parent, Path(self.build_lib) / "qrpo_lib" / "shipped"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in SHIPPED:
            if (root / name).is_dir():
                shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
            else:
                shutil.copyfile(root / name, target / name)


setup(cmdclass={"build_py": BuildWithNotebooks})
