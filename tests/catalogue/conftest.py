import numpy as np
import pytest

from autofit_ml.catalogue import ModelColumns, columns_for, empty_rows, pack_covariance


@pytest.fixture
def make_rows():
    """Rows with every column filled by known, distinct values; ``make_rows(ids, failed=(), model=None)``."""

    def make(ids, failed=(), model=None):
        columns = columns_for(model)
        rows = empty_rows(len(ids), columns)
        ok = np.array([name not in failed for name in ids], dtype=bool)
        index = np.arange(len(ids))
        for k, column in enumerate(columns):
            if column.size > 1:
                rows[column.name][ok] = 1.0
                if column.name.startswith("cov") and model in (None, ModelColumns()):
                    matrix = np.arange(64.0).reshape(8, 8)
                    rows[column.name][ok] = pack_covariance(matrix + matrix.T)
            elif column.dtype == "float64":
                rows[column.name][ok] = k + index[ok] / 1000
            elif column.dtype == "int32":
                rows[column.name][ok] = k + index[ok]
            elif column.dtype == "str":
                rows[column.name][ok] = [f"{column.name} {i}" for i in index[ok]]
        rows["id"][:] = ids
        rows["status"][ok] = "ok"
        rows["flags"][ok] = 0
        rows["message"][~ok] = "the image is empty"
        return rows

    return make
