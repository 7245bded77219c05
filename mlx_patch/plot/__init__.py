"""Plots of plain arrays: curves, heatmaps, networks, which need the extra `plot`; and pages, which need nothing."""

from mlx_patch.plot._cells_page import PageAxis as PageAxis
from mlx_patch.plot._cells_page import cells_data as cells_data
from mlx_patch.plot._cells_page import cells_page as cells_page
from mlx_patch.plot._cells_page import frame_height as frame_height
from mlx_patch.plot._cells_page import plain_numbers as plain_numbers
from mlx_patch.plot._cells_page import points_data as points_data
from mlx_patch.plot._curve import layer_curve as layer_curve
from mlx_patch.plot._figure import axes_of as axes_of
from mlx_patch.plot._figure import new_axes as new_axes
from mlx_patch.plot._heatmap import heatmap as heatmap
from mlx_patch.plot._heatmap import limit_of as limit_of
from mlx_patch.plot._heatmap import size_of_heatmap as size_of_heatmap
from mlx_patch.plot._network import LineStyle as LineStyle
from mlx_patch.plot._network import Network as Network
from mlx_patch.plot._network import NetworkLink as NetworkLink
from mlx_patch.plot._network import NetworkNode as NetworkNode
from mlx_patch.plot._network import network as network
from mlx_patch.plot._network_svg import network_svg as network_svg
from mlx_patch.plot._page import html_fragment as html_fragment
from mlx_patch.plot._page import html_frame as html_frame
from mlx_patch.plot._page import html_page as html_page
from mlx_patch.plot._page import html_table as html_table
from mlx_patch.plot._pattern_map import pattern_map as pattern_map
from mlx_patch.plot._scatter import scatter as scatter
from mlx_patch.plot._text import visible as visible
from mlx_patch.plot._token_grid import token_grid as token_grid
