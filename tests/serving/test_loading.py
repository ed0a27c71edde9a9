"""A bento's modules are compiled once in the parent of workers, and what cannot be compiled is left to the import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from ekiben.serving import loading

bento = Path(sys.argv[1])
loading.compile_ahead(bento)
loading.compile_ahead(bento)
(bento / "src" / "service.py").write_text("VALUE = 'compiled again'")
loading.enter(bento)
import service, package.inner
print(service.VALUE, service.__file__ == str(bento / "src" / "service.py"), package.inner.VALUE)
try:
    import broken
except SyntaxError as error:
    print(error.filename == str(bento / "src" / "broken.py"), error.lineno)
print(loading._compiled.keys() == {str(bento / "src" / name) for name in ("service.py", "späte.py")})
"""


def test_what_was_compiled_is_what_is_imported(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "package").mkdir(parents=True)
    (source / "service.py").write_text("VALUE = 'compiled ahead'", encoding="utf-8")
    (source / "späte.py").write_text("VALUE = 1", encoding="utf-8")
    (source / "broken.py").write_text("\nVALUE = (", encoding="utf-8")
    (source / "package" / "__init__.py").touch()
    (source / "package" / "inner.py").write_text("VALUE = 'inner'", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["compiled ahead True inner", "True 2", "True"]
    assert not list(source.rglob("*.pyc"))
