"""Files in and out: pictures, and depth maps in every format. The only place that knows encodings."""

from fathom.io.atomic import TEMPORARY_PREFIX as TEMPORARY_PREFIX
from fathom.io.atomic import write_atomic as write_atomic
from fathom.io.depth_files import DEPTH_FORMATS as DEPTH_FORMATS
from fathom.io.depth_files import DepthFormat as DepthFormat
from fathom.io.depth_files import read_depth as read_depth
from fathom.io.depth_files import write_depth as write_depth
from fathom.io.images import MAX_PIXELS as MAX_PIXELS
from fathom.io.images import PICTURE_FORMATS as PICTURE_FORMATS
from fathom.io.images import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from fathom.io.images import Picture as Picture
from fathom.io.images import read_image as read_image
from fathom.io.pictures import write_picture as write_picture
from fathom.io.sidecar import FathomWarning as FathomWarning
from fathom.io.sidecar import metadata_text as metadata_text
