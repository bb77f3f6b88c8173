"""make clean-weights STUDY=X: delete the quantized models of a study that has been measured; all else stays."""

import shutil
import sys
from pathlib import Path

from scripts.lib.cluster import runs
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.plan import BASELINE, Plan, load_plan


def clean(plan: Plan) -> tuple[int, int]:
    """Delete the weights of every quantized cell of a study.

    Deleting them reruns nothing. A new evaluation of such a cell quantizes it again, in this study or in another that
    shares it.

    Returns:
        Number of models deleted, and bytes freed.

    Raises:
        RuntimeError: a cell is not measured yet; nothing is deleted.
    """
    cells = [cell for cell in plan.cells if cell.method != BASELINE]
    missing = [path for cell in plan.cells for _, _, path in plan.evaluations(cell) if not Path(path).is_file()]
    if missing:
        raise RuntimeError(f"{len(missing)} evaluations are missing, such as {missing[0]}: run the study first")
    folders = [Path(plan.paths.quantized(*cell.names), "model") for cell in cells]
    found = [folder for folder in folders if folder.is_dir()]
    freed = sum(path.stat().st_size for folder in found for path in folder.rglob("*") if path.is_file())
    for folder in found:
        shutil.rmtree(folder)
    return len(found), freed


def main() -> None:
    try:
        head = runs.holder()
        if head and runs.is_alive(head) is not False:
            raise RuntimeError(f"a run may need them: {runs.describe(head)}")
        number, freed = clean(load_plan(*sys.argv[1:]))
    except (ConfigError, RuntimeError) as error:
        sys.exit(f"clean-weights: {error}")
    print(f"deleted {number} quantized models, {freed / 1e6:.1f} MB; checkpoints, tables, figures and the report stay")


if __name__ == "__main__":
    main()
