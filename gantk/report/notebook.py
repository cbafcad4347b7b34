"""Shows a run in a notebook: its scores next to those of the best baseline, and typical images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantk.guest import as_guest
from gantk.runs.folder import RunFolder
from gantk.runs.schemas import read_results

if TYPE_CHECKING:
    from gantk.inference.model import Model
    from gantk.metrics.summary import Scores


class Run(RunFolder):
    """A finished or running training, by its folder. In a notebook it shows its scores and
    pictures.

    Example:

        run = gantk.Run("runs/NAME-TIME")
        run.metrics["a_to_b"]["psnr"]["value"]
        run.scores.table.groupby(["system", "metric"])["value"].describe()
        pandas.DataFrame(run.log).plot("step", "losses.generators/cycle_a")
        t2 = run.load().translate(t1)
    """

    @as_guest
    def load(self, device: str | None = None) -> Model:
        """Load the trained model: `run.load().translate(array)`. See `gantk.load`."""
        from gantk.inference.load import load_model

        return load_model(self.path, device)

    @property
    def scores(self) -> Scores:
        """The content of metrics.json, with a `table` of the scores of single images, a pandas
        DataFrame; without any before the run is scored.
        """
        from gantk.metrics.summary import Scores
        from gantk.metrics.table import read_lines

        return Scores(read_results(self.path), read_lines(self.path))

    def _repr_html_(self) -> str:
        """HTML for a notebook. It sets only spacing, so that the notebook's light or dark colours
        apply.
        """
        # a training needs none of them before its first step
        from gantk.metrics.rows import TABLE_COLUMNS, score_rows
        from gantk.report.build import HERE, templates
        from gantk.report.patients.section import shown_patients
        from gantk.report.run_record import RunRecord
        from gantk.report.summary import summarise, typical_images

        record = RunRecord(self.path)
        rows = score_rows(record.results.judged_by)
        for row in rows:
            row.direction = record.label(row.key)
        columns = TABLE_COLUMNS | {"verdict": "verdict"}

        return (
            templates(HERE)
            .get_template("notebook.html.j2")
            .render(
                name=repr(self),
                result=summarise(record),
                heads=columns,
                rows=[[getattr(row, column) for column in columns.values()] for row in rows],
                figures=typical_images(record, shown_patients(record)),
                report=self.report if self.report.is_file() else "",
            )
        )
